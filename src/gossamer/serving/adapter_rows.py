"""An adapter's weights as rows in blocks: where each row goes, and putting it there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.adapters.low_rank import LowRankAdapter
from gossamer.kernels.grouped_lora import AdapterTable, RowFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive rows of one factor that lie together in one block."""

    factor: int
    first: int
    """First row."""
    count: int
    block: int
    """Which of the adapter's blocks."""
    offset: int
    """In that block, in elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRows:
    """A checked adapter in host memory, in the order in which it will lie in blocks."""

    factors: list[Tensor]
    """A [rank, h_in] and B transposed [rank, h_out] of each adapted module, in `format`."""
    pieces: list[Piece]
    num_blocks: int
    block_elements: int
    first_row: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int32]
    scale: npt.NDArray[np.float32]
    row_scale: npt.NDArray[np.float32]
    """What the elements of each row are multiplied by."""
    format: RowFormat

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows; what the blocks waste at their ends is not counted."""
        return sum(factor.numel() * factor.element_size() for factor in self.factors)


def pack(
    adapter: LowRankAdapter,
    module_ids: Mapping[str, int],
    block_bytes: int,
    *,
    int8: bool = False,
) -> HostRows:
    """Lay out `adapter` for blocks of `block_bytes`; nothing is padded to another rank.

    Rows saved as bfloat16 stay so (half the memory and the reading, and exact); others become
    float32. With `int8`, each row is rounded to whole numbers times a scale of its own. Raises
    `KeyError` for a module that is not in `module_ids`.
    """
    row_format = RowFormat.INT8 if int8 else _format_as_saved(adapter)
    dtype = row_format.dtype
    count = len(module_ids)
    first_row = np.zeros(count, dtype=np.int64)
    rank = np.zeros(count, dtype=np.int32)
    scale = np.zeros(count, dtype=np.float32)
    factors: list[Tensor] = []
    row_scales: list[Tensor] = []
    num_rows = 0
    for path in sorted(adapter.factors, key=module_ids.__getitem__):
        pair = adapter.factors[path]
        module = module_ids[path]
        first_row[module] = num_rows
        rank[module] = pair.rank
        scale[module] = pair.scale
        num_rows += 2 * pair.rank
        for factor in (pair.a, pair.b.T):
            elements, row_scale = _quantise(factor) if int8 else (factor, torch.ones(pair.rank))
            factors.append(elements.to(dtype).contiguous())
            row_scales.append(row_scale)
    block_elements = block_bytes // dtype.itemsize
    pieces = lay_out([tuple(factor.shape) for factor in factors], block_elements)
    return HostRows(
        factors=factors,
        pieces=pieces,
        num_blocks=pieces[-1].block + 1,
        block_elements=block_elements,
        first_row=first_row,
        rank=rank,
        scale=scale,
        row_scale=torch.cat(row_scales).numpy(),
        format=row_format,
    )


def _format_as_saved(adapter: LowRankAdapter) -> RowFormat:
    half = all(f.a.dtype == f.b.dtype == torch.bfloat16 for f in adapter.factors.values())
    return RowFormat.BFLOAT16 if half else RowFormat.FLOAT32


def _quantise(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Each row [rank, width] as whole numbers from -127 to 127, and the scales [rank]."""
    rows = factor.float()
    scale = rows.abs().amax(dim=1) / 127
    return torch.round(rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]), scale


def lay_out(shapes: Sequence[tuple[int, ...]], block_elements: int) -> list[Piece]:
    """Place the rows of factors of `shapes` (rows, width) one behind the other into blocks.

    No row straddles two blocks, so a block may end with less than a row unused.
    """
    pieces: list[Piece] = []
    block = offset = 0
    for factor, (rows, width) in enumerate(shapes):
        assert width <= block_elements, f"a row of {width} elements exceeds a block"
        first = 0
        while first < rows:
            fitting = min(rows - first, (block_elements - offset) // width)
            if fitting == 0:
                block, offset = block + 1, 0
                continue
            pieces.append(
                Piece(factor=factor, first=first, count=fitting, block=block, offset=offset)
            )
            first += fitting
            offset += fitting * width
    return pieces


def write_rows(rows: HostRows, pool: Tensor, blocks: Sequence[int]) -> AdapterTable:
    """Copy `rows` into their `blocks` of the pool's bytes; returns the table that finds them."""
    elements = pool.view(rows.format.dtype)
    offsets = []
    for piece in rows.pieces:
        factor = rows.factors[piece.factor]
        width = factor.shape[1]
        low = blocks[piece.block] * rows.block_elements + piece.offset
        source = factor[piece.first : piece.first + piece.count]
        elements[low : low + piece.count * width].copy_(source.reshape(-1))
        offsets.append(low + width * np.arange(piece.count, dtype=np.int64))
    return AdapterTable(
        first_row=rows.first_row,
        rank=rows.rank,
        scale=rows.scale,
        offsets=np.concatenate(offsets),
        row_scale=rows.row_scale,
        format=rows.format,
    )
