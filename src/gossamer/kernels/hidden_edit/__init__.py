"""Edits of hidden states at chosen tokens, after a decoder block (ReFT, arXiv 2404.03592).

h += R^T (A h + b), with the edit of the token's own adapter and group of positions. LoReFT is
A = W - R, the other variants A = W.
"""

from typing import Protocol

from torch import Tensor

from gossamer.kernels.hidden_edit.batch import (
    EditBatch,
    EditTable,
    make_batch,
    stack_tables,
    table_arena,
)
from gossamer.kernels.hidden_edit.reference import ReferenceHiddenEdit

__all__ = [
    "EditBatch",
    "EditTable",
    "HiddenEdit",
    "make_batch",
    "make_hidden_edit",
    "stack_tables",
    "table_arena",
]


class HiddenEdit(Protocol):
    """The operation for all decoder blocks of a model."""

    def edit_(self, hidden: Tensor, layer: int, batch: EditBatch) -> None:
        """Edit hidden [T, d], the output of decoder block `layer`, in place."""


def make_hidden_edit(pool: Tensor, backend: str) -> HiddenEdit:
    """Make the operation of `backend` over `pool`, the bytes of the block pool."""
    if backend == "reference":
        return ReferenceHiddenEdit(pool)
    if backend == "triton":
        from gossamer.kernels.hidden_edit.triton_kernels import TritonHiddenEdit

        return TritonHiddenEdit(pool)
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.hidden_edit.cpu import CpuHiddenEdit

    return CpuHiddenEdit(pool)
