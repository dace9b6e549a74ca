"""Sparse changes as segments in blocks: entries of one output row, cut where a block ends."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.adapters.kinds.sparse_delta import Blocks, Delta, Entries, SparseAdapter
from gossamer.adapters.reading.limits import MOST_PLACES
from gossamer.errors import AdapterFormatError
from gossamer.kernels.sparse_delta import SparseTable
from gossamer.kernels.sparse_delta.device_table import BAND, BAND_RECORD, HEADER, SEGMENT
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import Empty, VectorPart, host_empty, pack_vectors

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The segments of one module."""

    row: LongArray  # [S]
    column: LongArray  # [S] first of consecutive columns, or -1
    length: LongArray  # [S] entries
    width: LongArray  # [S] 4-byte elements
    data: npt.NDArray[np.int32]
    """[sum of width] of each segment the values, then its columns unless consecutive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsePart(VectorPart):
    """The sparse changes of an adapter in host memory."""

    table: SparseTable
    """What the table in the pool will say; its offsets come with the blocks."""

    def place(self, pool: Tensor, blocks: list[int]) -> SparseTable:
        """Copy the changes into `blocks` of the pool's bytes; returns the table that finds them."""
        return replace(self.table, offset=self.vectors.write(pool, blocks))


def pack_sparse(
    deltas: Mapping[str, Delta],
    module_ids: Mapping[str, int],
    block_bytes: int,
    empty: Empty = host_empty,
) -> SparsePart:
    """Lay out changes by module path. Values saved as bfloat16 stay so, others become float32."""
    half = all(delta.values.dtype == torch.bfloat16 for delta in deltas.values())
    longest = block_bytes // 8
    first = np.zeros(len(module_ids), dtype=np.int64)
    count = np.zeros(len(module_ids), dtype=np.int64)
    found: list[Segments] = []
    for path in sorted(deltas, key=module_ids.__getitem__):
        delta = deltas[path]
        cut = _of_entries if isinstance(delta, Entries) else _of_blocks
        segments = cut(delta, longest, half)  # type: ignore[arg-type]
        first[module_ids[path]] = sum(len(each.row) for each in found)
        count[module_ids[path]] = len(segments.row)
        found.append(segments)
    widths = _joined(each.width for each in found)
    data = empty(int(widths.sum()), torch.int32)
    low = 0
    for each in found:
        data[low : low + len(each.data)] = torch.from_numpy(each.data)
        low += len(each.data)
    return SparsePart(
        vectors=pack_vectors(data, widths, block_bytes),
        table=SparseTable(
            first=first,
            count=count,
            row=_narrow(_joined(each.row for each in found)),
            column=_narrow(_joined(each.column for each in found)),
            length=_narrow(_joined(each.length for each in found)),
            offset=np.zeros(0, dtype=np.int64),
            half=half,
        ),
    )


def pack_sparse_adapter(adapter: SparseAdapter, target: PackTarget) -> Parts:
    """Lay out the changes of a sparse adapter."""
    ids, block_bytes = target.module_ids, target.block_bytes
    return {"sparse": pack_sparse(adapter.deltas, ids, block_bytes, target.empty)}


def cost_of_sparse(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of a hundredth of the linear layers, scattered (SHiRA) and in blocks (SMT).

    Entries are spread evenly over rows here; real masks differ from row to row by a few bytes.
    """
    density, side = 0.01, 64
    shapes = list(pool.base.shape.linears.values())
    # A value and a column for each entry; blocks are values alone.
    entries = [(h_out, 2 * max(1, round(density * h_in))) for h_out, h_in in shapes]
    weights = sum(h_out * h_in for h_out, h_in in shapes)
    blocks = [(max(1, round(density * weights / side**2)) * side, side)]
    # In tables a header for each module, a record for each band and one for each segment.
    tops = [len(shapes) * HEADER.itemsize]
    tops += [-(-h_out // BAND) * BAND_RECORD.itemsize for h_out, _ in shapes]
    by_rows = [BAND * SEGMENT.itemsize] * sum(-(-h_out // BAND) for h_out, _ in shapes)
    by_blocks = [BAND * SEGMENT.itemsize] * (blocks[0][0] // BAND)
    return {
        "sparse: SHiRA, 1 % of entries": pool.with_tables(pool.cost_of(entries), [*tops, *by_rows]),
        f"sparse: SMT, 1 % in blocks of {side}": pool.with_tables(
            pool.cost_of(blocks), [*tops, *by_blocks]
        ),
    }


def _of_entries(delta: Entries, longest: int, half: bool) -> Segments:
    rows, columns = delta.rows.numpy(), delta.columns.numpy()
    # In the order of columns: gathers then go forward through the input.
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    within = _within_groups(rows)
    # A new segment where a row begins, and after as many entries of a row as fit into a block.
    begins = np.flatnonzero(within % longest == 0)
    length = np.diff(np.append(begins, len(rows)))
    values, value_width = _elements(delta.values[torch.from_numpy(order)], length, half)
    width = value_width + length
    data = np.empty(int(width.sum()), dtype=np.int32)
    low = np.cumsum(width) - width
    data[_spread(low, value_width)] = values
    data[_spread(low + value_width, length)] = _narrow(columns)
    column = np.full(len(begins), -1, dtype=np.int64)
    return Segments(row=rows[begins], column=column, length=length, width=width, data=data)


def _of_blocks(delta: Blocks, longest: int, half: bool) -> Segments:
    first_row, first_column, height, width = delta.places.numpy().T
    # Each row of a block, cut into pieces of at most `longest`.
    pieces = -(-width // longest)
    count = height * pieces
    block = np.repeat(np.arange(len(count)), count)
    row, piece = np.divmod(_spread(np.zeros_like(count), count), pieces[block])
    length = np.minimum(longest, width[block] - piece * longest)
    data, widths = _elements(delta.values, length, half)
    return Segments(
        row=first_row[block] + row,
        column=first_column[block] + piece * longest,
        length=length,
        width=widths,
        data=data,
    )


def _elements(
    values: Tensor, length: LongArray, half: bool
) -> tuple[npt.NDArray[np.int32], LongArray]:
    """Values as 4-byte elements, each segment of `length` padded to whole ones; their widths."""
    if not half:
        return values.to(torch.float32).contiguous().numpy().view(np.int32), length
    width = -(-length // 2)
    halves = np.zeros(2 * int(width.sum()), dtype=np.int16)
    low = 2 * (np.cumsum(width) - width)
    halves[_spread(low, length)] = values.contiguous().view(torch.int16).numpy()
    return halves.view(np.int32), width


def _narrow(numbers: LongArray) -> npt.NDArray[np.int32]:
    """Narrow numbers to the kernels' type. One that wrapped would make them write elsewhere.

    Raises `AdapterFormatError` for one that 32 bits cannot hold, or below -1.
    """
    if len(numbers) and not (numbers.min() >= -1 and numbers.max() < MOST_PLACES):
        raise AdapterFormatError(
            f"a sparse change reaches from {numbers.min()} to {numbers.max()}; rows and columns "
            "must lie between 0 and 2^31 - 1"
        )
    return numbers.astype(np.int32)


def _within_groups(groups: LongArray) -> LongArray:
    """0, 1, 2, ... within each stretch of equal neighbours."""
    count = len(groups)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    begins = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    return np.arange(count) - np.repeat(begins, np.diff(np.append(begins, count)))


def _spread(low: LongArray, length: LongArray) -> LongArray:
    """Join the ranges low[0], low[0] + 1, ... (length[0] of them), low[1], ..."""
    return np.repeat(low - (np.cumsum(length) - length), length) + np.arange(int(length.sum()))


def _joined(arrays: Iterable[npt.NDArray[np.generic]]) -> LongArray:
    parts = list(arrays)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
