"""Edits of hidden states on GPUs, in Triton: h += R^T (A h + b) for the listed tokens.

Two launches, since A h needs the whole of h as it was before any of it changes: the first leaves
A h + b of each token in scratch, the second adds R^T of it. A token's sums are cut at the same
places whatever its neighbours. Rows are read element by element, neighbours together, so they may
begin anywhere; edits concern a prompt's few first and last tokens.
"""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.kernels.hidden_edit.batch import EditBatch
from gossamer.kernels.scratch import ScratchMemory
from gossamer.kernels.triton_kernels import CompileCase, rounded

MAX_RANK = 256
"""The highest rank of an edit."""
COLUMNS = 256
"""Elements of a hidden state that are read at once, or written by one program."""
RANKS = 8
"""Rows of A or R that are read at once."""


@triton.jit
def edit_of(token_slot, token_group, first_row, rank, item, layer, num_layers):
    """The index of an edit's first row in `offsets`, and its rank."""
    place = tl.load(token_slot + item) * num_layers + layer
    place = place * 2 + tl.load(token_group + item)
    return tl.load(first_row + place), tl.load(rank + place)


# One kernel for all layers: 0, 1 and multiples of 16 would have their own.
@triton.jit(do_not_specialize=["layer"])
def project_kernel(
    hidden, stride, pool, offsets, first_row, rank, token, slot, group, layer, num_layers,
    projected,
    D: tl.constexpr, COLUMNS_: tl.constexpr, RANKS_: tl.constexpr, MAX_RANK_: tl.constexpr,
):  # fmt: skip
    """projected[item, j] = A[j] h + b[j], float32, for the RANKS_ rows of one program."""
    item, low = tl.program_id(0), tl.program_id(1) * RANKS_
    at = tl.load(token + item)
    if at < 0:
        return
    first, rows = edit_of(slot, group, first_row, rank, item, layer, num_layers)
    if low >= rows:
        return
    j, n = low + tl.arange(0, RANKS_), tl.arange(0, COLUMNS_)
    is_row = j < rows
    start = tl.load(offsets + first + j, mask=is_row, other=0)
    acc = tl.zeros((RANKS_, COLUMNS_), tl.float32)
    for column in range(0, D, COLUMNS_):
        is_column = column + n < D
        h = tl.load(hidden + at.to(tl.int64) * stride + column + n, mask=is_column, other=0.0)
        a = tl.load(
            pool + start[:, None] + (column + n)[None, :],
            mask=is_row[:, None] & is_column[None, :], other=0.0,
        )  # fmt: skip
        acc += a.to(tl.float32) * h.to(tl.float32)[None, :]
    bias = tl.load(pool + tl.load(offsets + first + 2 * rows) + j, mask=is_row, other=0.0)
    result = tl.sum(acc, axis=1) + bias.to(tl.float32)
    tl.store(projected + item * MAX_RANK_ + j, result, mask=is_row)


@triton.jit(do_not_specialize=["layer"])
def add_kernel(
    hidden, stride, pool, offsets, first_row, rank, token, slot, group, layer, num_layers,
    projected,
    D: tl.constexpr, COLUMNS_: tl.constexpr, RANKS_: tl.constexpr, MAX_RANK_: tl.constexpr,
):  # fmt: skip
    """h[n] += sum over j of projected[item, j] R[j, n] for the COLUMNS_ elements of one program."""
    item = tl.program_id(0)
    at = tl.load(token + item)
    if at < 0:
        return
    first, rows = edit_of(slot, group, first_row, rank, item, layer, num_layers)
    if rows == 0:
        return
    r, n = tl.arange(0, RANKS_), tl.program_id(1) * COLUMNS_ + tl.arange(0, COLUMNS_)
    is_column = n < D
    acc = tl.zeros((RANKS_, COLUMNS_), tl.float32)
    for low in range(0, rows, RANKS_):
        j = low + r
        is_row = j < rows
        start = tl.load(offsets + first + rows + j, mask=is_row, other=0)
        factor = tl.load(projected + item * MAX_RANK_ + j, mask=is_row, other=0.0)
        values = tl.load(
            pool + start[:, None] + n[None, :], mask=is_row[:, None] & is_column[None, :], other=0.0
        )
        acc += factor[:, None] * values.to(tl.float32)
    h_at = hidden + at.to(tl.int64) * stride + n
    h = tl.load(h_at, mask=is_column, other=0.0).to(tl.float32)
    tl.store(h_at, rounded(h + tl.sum(acc, axis=0), hidden), mask=is_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditArrays:
    """An `EditBatch` as tensors on one device: E edits, U adapters of L decoder blocks."""

    token: Tensor
    """Shape [E], int32: place in the batch; -1: nothing is edited."""
    slot: Tensor
    """Shape [E], int32: index of the adapter."""
    group: Tensor
    """Shape [E], int32: which of the two groups of positions."""
    first_row: Tensor
    """Shape [U, L, 2], int64: index into `offsets` of an edit's first row."""
    rank: Tensor
    """Shape [U, L, 2], int32: rank of each edit; 0: no edit."""
    offsets: Tensor
    """Shape [rows], int64: place of each row in the pool, in its elements."""


def arrays_of(batch: EditBatch, device: torch.device, edits: int = 0) -> EditArrays:
    """Arrays of a step on `device`, with places for at least that many edits."""

    def on_device(array: npt.NDArray[np.generic], unused: int | None = None) -> Tensor:
        missing = 0 if unused is None else max(0, edits - len(array))
        padded = np.append(array, np.full(missing, unused, array.dtype)) if missing else array
        return torch.from_numpy(np.ascontiguousarray(padded)).to(device)

    tables = batch.tables
    return EditArrays(
        token=on_device(batch.token, -1),
        slot=on_device(batch.slot, 0),
        group=on_device(batch.group, 0),
        first_row=on_device(tables.first_row),
        rank=on_device(tables.rank),
        offsets=on_device(tables.offsets),
    )


class TritonHiddenEdit:
    """See `HiddenEdit`; on the pool's device, for hidden states of any type."""

    def __init__(self, pool: Tensor, dtype: torch.dtype = torch.float32) -> None:
        """pool: bytes of the block pool. dtype: of the rows of edits in it."""
        self._pool = pool.view(dtype)
        self.scratch = ScratchMemory(pool.device)
        """What the first launch leaves for the second: only what the step has written is read."""
        self._last: tuple[EditBatch, EditArrays] | None = None

    def edit_(self, hidden: Tensor, layer: int, batch: EditBatch) -> None:
        """See `HiddenEdit.edit_`. Raises `ValueError` for too high a rank."""
        if not batch.has_edits_after(layer):
            return
        if self._last is None or self._last[0] is not batch:
            if batch.tables.rank.max() > MAX_RANK:
                raise ValueError(f"an edit of rank {batch.tables.rank.max()}, at most {MAX_RANK}")
            self._last = batch, arrays_of(batch, self._pool.device)
        self.edit_listed_(hidden, layer, self._last[1])

    def edit_listed_(self, hidden: Tensor, layer: int, edits: EditArrays) -> None:
        """Edit hidden [T, d] in place by arrays that a step has filled."""
        count = len(edits.token)
        if hidden.stride(1) != 1:
            raise ValueError("hidden states must be contiguous")
        width, layers = hidden.shape[1], edits.rank.shape[1]
        arguments = (
            hidden, hidden.stride(0), self._pool, edits.offsets, edits.first_row, edits.rank,
            edits.token, edits.slot, edits.group, layer, layers,
            self.scratch.take(count * MAX_RANK),
        )  # fmt: skip
        sizes = {"D": width, "COLUMNS_": COLUMNS, "RANKS_": RANKS, "MAX_RANK_": MAX_RANK}
        project_kernel[(count, MAX_RANK // RANKS)](*arguments, **sizes, num_warps=4)
        add_kernel[(count, triton.cdiv(width, COLUMNS))](*arguments, **sizes, num_warps=4)


def compile_cases() -> list[CompileCase]:
    """Launches for Llama-3-8B with edits in float32, as they rest today."""
    integers = dict.fromkeys(("rank", "token", "slot", "group"), "*i32")
    return [
        CompileCase(
            label=f"edit {label} {kind}", kernel=kernel,
            signature={
                "hidden": f"*{kind}", "stride": "i32", "pool": "*fp32", "offsets": "*i64",
                "first_row": "*i64", "layer": "i32", "num_layers": "i32", "projected": "*fp32",
                **integers,
            },
            constants={"D": 4096, "COLUMNS_": COLUMNS, "RANKS_": RANKS, "MAX_RANK_": MAX_RANK},
            aligned=("stride",), most_registers=96,
        )
        for kind in ("bf16", "fp32")
        for label, kernel in (("project", project_kernel), ("add", add_kernel))
    ]  # fmt: skip
