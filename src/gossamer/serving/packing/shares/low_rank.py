"""Low-rank rows of which each rank has a share of both factors (S-LoRA's form).

Of a layer whose outputs are divided, a rank has some rows of A, as many as every other, and the
columns of B transposed that make its own outputs. Of a layer whose inputs are divided, it has the
columns of A that meet its own inputs, and of B transposed its share of the outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gossamer.adapters.kinds.low_rank import Factors, LowRankAdapter
from gossamer.basemodel.sharded import ModelPart
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.split_lora import SplitTable
from gossamer.serving.packing.rows import format_as_saved, quantised
from gossamer.serving.packing.vectors import (
    Empty,
    VectorPart,
    Vectors,
    host_empty,
    lay_out_vectors,
    padded,
)
from gossamer.serving.shard import ModuleSlice, Slices


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRows(VectorPart):
    """One rank's share of the rows of a checked adapter in host memory.

    For each adapted module those of A, then those of B transposed; the last ranks' rows of A may be
    zero, so that all have as many.
    """

    table: SplitTable
    """What the table in the pool will say; its offsets come with the blocks."""

    def place(self, pool: Tensor, blocks: Sequence[int]) -> SplitTable:
        """Copy the rows into `blocks` of the pool's bytes; returns the table that finds them."""
        return replace(self.table, offsets=self.vectors.write(pool, blocks))


def own_rows(rank: int, part: ModuleSlice, ranks: int) -> int:
    """Return how many rows of A, of `rank` in all, each of several ranks has of a layer."""
    return rank if part.is_partial else -(-rank // ranks)


def own_outputs(h_out: int, part: ModuleSlice, of: ModelPart) -> slice:
    """Return which of a layer's outputs a rank has rows of B for."""
    if not part.is_partial:
        return part.outputs
    each = -(-h_out // of.size)
    return slice(min(of.rank * each, h_out), min((of.rank + 1) * each, h_out))


class SplitRowPacker:
    """The packer of a rank's share of low-rank rows for one base model and blocks of one size."""

    def __init__(
        self, module_ids: Mapping[str, int], block_bytes: int, row_format: RowFormat | None,
        slices: Slices, part: ModelPart, *, empty: Empty = host_empty,
    ) -> None:  # fmt: skip
        """row_format: as for `RowPacker`; slices: what of the layers the rank `part` holds."""
        self._ids = module_ids
        self._block_bytes = block_bytes
        self._format = row_format
        self._slices = slices
        self._part = part
        self._empty = empty

    def pack(self, adapter: LowRankAdapter) -> SplitRows:
        """Lay out the rank's rows of an adapter, tensor by tensor.

        Raises `KeyError` for a module that the base model does not have.
        """
        factors = adapter.factors
        paths = sorted(factors, key=self._ids.__getitem__)
        row_format = self._format
        if row_format is None:
            row_format = format_as_saved(factors)
        table = self._table([(self._ids[path], factors[path], path) for path in paths], row_format)
        matrices, scales = [], []
        for path in paths:
            for matrix, scale in self._share(factors[path], path, row_format):
                matrices.append(matrix)
                scales.append(scale)
        widths = np.repeat([m.shape[1] for m in matrices], [len(m) for m in matrices])
        strides = padded(widths, row_format.dtype.itemsize)
        data = self._empty(int(strides.sum()), row_format.dtype)
        if (strides != widths).any():
            data.zero_()
        low = 0
        for matrix in matrices:
            count, width = matrix.shape
            stride = int(padded(width, row_format.dtype.itemsize))
            data[low : low + count * stride].view(count, stride)[:, :width] = matrix
            low += count * stride
        layout = lay_out_vectors(strides, self._block_bytes // row_format.dtype.itemsize)
        return SplitRows(
            vectors=Vectors(data=data, layout=layout),
            table=replace(table, row_scale=torch.cat(scales).numpy()),
        )

    def _table(
        self, modules: Sequence[tuple[int, Factors, str]], row_format: RowFormat
    ) -> SplitTable:
        """What is the same on all ranks."""
        own = np.zeros(len(self._ids), dtype=np.int32)
        rank = np.zeros(len(self._ids), dtype=np.int32)
        scale = np.zeros(len(self._ids), dtype=np.float32)
        for module, pair, path in modules:
            own[module] = own_rows(pair.rank, self._slices.of(path), self._part.size)
            rank[module] = pair.rank
            scale[module] = pair.scale
        rows = np.add(own, rank, dtype=np.int64)
        return SplitTable(
            first_row=np.cumsum(rows) - rows,
            own=own,
            rank=rank,
            scale=scale,
            offsets=np.zeros(0, dtype=np.int64),
            row_scale=np.zeros(0, dtype=np.float32),
            format=row_format,
        )

    def _share(
        self, pair: Factors, path: str, row_format: RowFormat
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rank's rows of A and of B transposed, and the scales of both."""
        part, of = self._slices.of(path), self._part
        a, b_t = pair.a, pair.b.T
        scale = np.ones(2 * pair.rank, dtype=np.float32)
        if row_format is RowFormat.INT8:
            # Scales of whole rows: a rank has the numbers that a single one would have.
            a, b_t = quantised([a, b_t], scale)
        scales = torch.from_numpy(scale)
        of_a, of_b = scales[: pair.rank], scales[pair.rank :]
        if part.is_partial:
            yield a[:, part.inputs], of_a
        else:
            each = own_rows(pair.rank, part, of.size)
            rows = slice(of.rank * each, (of.rank + 1) * each)
            missing = each - len(a[rows])
            yield (
                functional.pad(a[rows], (0, 0, 0, missing)),
                functional.pad(of_a[rows], (0, missing)),
            )
        yield b_t[:, own_outputs(pair.b.shape[0], part, of)], of_b
