"""A low-rank adapter's weights as rows, ready to be copied into blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.adapters.factors import Factors, Pair
from gossamer.kernels.grouped_lora import AdapterTable, RowFormat
from gossamer.serving.kinds.vectors import VectorLayout, Vectors, lay_out_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """Where the rows lie: for each adapted module those of A [rank, h_in], then those of B
    transposed [rank, h_out]; nothing is padded to another rank."""

    first_row: npt.NDArray[np.int64]
    """[M] of each module's rows."""
    rank: npt.NDArray[np.int32]
    """[M]; 0: not adapted."""
    scale: npt.NDArray[np.float32]
    """[M]"""
    format: RowFormat
    vectors: VectorLayout

    @property
    def num_rows(self) -> int:
        """Of all modules."""
        return len(self.vectors.bounds) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRows:
    """A checked adapter in host memory."""

    data: Tensor
    """All elements."""
    row_scale: npt.NDArray[np.float32]
    """What the elements of each row are multiplied by."""
    layout: RowLayout

    @property
    def vectors(self) -> Vectors:
        """The rows, whatever they mean."""
        return Vectors(data=self.data, layout=self.layout.vectors)

    @property
    def num_blocks(self) -> int:
        """Blocks that they take."""
        return self.vectors.num_blocks

    @property
    def num_bytes(self) -> int:
        """What they weigh; the unused ends of blocks are not counted."""
        return self.vectors.num_bytes

    def factors(self, module: int) -> tuple[Tensor, Tensor]:
        """A [rank, h_in] and B transposed [rank, h_out] of `module` as float32."""
        first, rank = int(self.layout.first_row[module]), int(self.layout.rank[module])
        return self._factor(first, rank), self._factor(first + rank, rank)

    def _factor(self, first: int, count: int) -> Tensor:
        bounds = self.layout.vectors.bounds
        rows = self.data[bounds[first] : bounds[first + count]].view(count, -1).float()
        return rows * torch.from_numpy(self.row_scale[first : first + count, None])


def lay_out(
    factors: Mapping[str, Factors | Pair],
    module_ids: Mapping[str, int],
    block_bytes: int,
    row_format: RowFormat,
) -> RowLayout:
    """The layout of `factors`, by module path, for blocks of `block_bytes`.

    Raises `KeyError` for a module that is not in `module_ids`.
    """
    pairs = list(factors.values())
    modules = [module_ids[path] for path in factors]
    rank = np.zeros(len(module_ids), dtype=np.int32)
    rank[modules] = [pair.rank for pair in pairs]
    scale = np.zeros(len(module_ids), dtype=np.float32)
    scale[modules] = [pair.scale for pair in pairs]
    in_order = sorted(zip(modules, pairs, strict=True), key=lambda pair: pair[0])
    sizes = [(p.rank, width) for _, p in in_order for width in (p.a.shape[1], p.b.shape[0])]
    counts, widths = np.array(sizes).reshape(-1, 2).T
    return RowLayout(
        first_row=2 * (np.cumsum(rank, dtype=np.int64) - rank),
        rank=rank,
        scale=scale,
        format=row_format,
        vectors=lay_out_vectors(
            np.repeat(widths, counts), block_bytes // row_format.dtype.itemsize
        ),
    )


def write_rows(rows: HostRows, pool: Tensor, blocks: Sequence[int]) -> AdapterTable:
    """Copy `rows` into their `blocks` of the pool's bytes; returns the table that finds them."""
    return AdapterTable(
        first_row=rows.layout.first_row,
        rank=rows.layout.rank,
        scale=rows.layout.scale,
        offsets=rows.vectors.write(pool, blocks),
        row_scale=rows.row_scale,
        format=rows.layout.format,
    )
