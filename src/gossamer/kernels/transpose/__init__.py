"""Transposition of the factors of adapters: on disk there is B, used are rows of B transposed."""

from typing import Any

import numpy.typing as npt

__all__ = ["transpose_into"]


def transpose_into(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    """Write source [n, m] into target [m * n], which becomes [m, n].

    Both contiguous, of int16 or of int32: as such, elements of any type of two or four bytes can be
    seen. numpy and torch take eight times as long for [576, 64] elements of two bytes.
    """
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.transpose import cpu

    rows, columns = source.shape
    cpu.transpose(source.reshape(-1), rows, columns, target)
