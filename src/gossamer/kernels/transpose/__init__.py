"""Moving the factors of an adapter to where their rows belong: A as it is, B transposed."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["move_matrices"]


def move_matrices(
    source: npt.NDArray[Any], moves: npt.NDArray[np.int64], target: npt.NDArray[Any]
) -> None:
    """Copy matrices from one flat array to another.

    moves [n, 4]: first element in source, first element in target, rows and columns of each matrix
    that is transposed on the way; 1 row and its elements for what is only copied.

    Both arrays are of int16 or of int32: as such, elements of any type of two or four bytes can be
    seen. numpy and torch take eight times as long to transpose [576, 64] elements of two bytes, and
    a call of theirs for each of hundreds of matrices takes as long as moving them.
    """
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.transpose import cpu

    sizes = moves[:, 2] * moves[:, 3]
    if len(moves) and (
        moves.min() < 0
        or (moves[:, 0] + sizes).max() > len(source)
        or (moves[:, 1] + sizes).max() > len(target)
    ):
        raise ValueError("a matrix lies outside of the array")
    cpu.move_matrices(source, moves, target)
