"""Rows of tokens, of the embedding and of the output layer, as pieces in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.adapters.kinds.tokens import TokenAdapter
from gossamer.adapters.kinds.trained_parts import TokenRows, TrainedParts
from gossamer.kernels.trained_parts.token_rows import RowTable
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import VectorPart, pack_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRowPart(VectorPart):
    """Rows in host memory, one vector each."""

    ids: Tensor
    """Shape [n], int64, ascending: whose row each is."""

    def place(self, pool: Tensor, blocks: list[int]) -> RowTable:
        """Copy the rows into `blocks` of the pool's bytes."""
        offsets = self.vectors.write(pool, blocks)
        width = self.vectors.data.numel() // len(self.ids)
        return RowTable(
            ids=self.ids.to(pool.device),
            offsets=torch.from_numpy(offsets).to(pool.device),
            pieces=tuple(pieces_of(offsets, width)),
            width=width,
            dtype=self.vectors.data.dtype,
        )


def pack_tokens(adapter: TokenAdapter, target: PackTarget) -> Parts:
    """Lay out the rows of an adapter."""
    return row_parts(adapter.parts, target)


def row_parts(parts: TrainedParts, target: PackTarget) -> Parts:
    """Lay out the rows that differ from the base's."""
    base = target.parts
    of_embedding, of_output = parts.rows.get(base.embedding), parts.rows.get(base.output)
    if base.is_tied and parts.is_tied:
        of_embedding, of_output = of_embedding or of_output, of_output or of_embedding
    found: Parts = {}
    for field, rows, is_known in (
        ("embedding", of_embedding, True),
        ("output", of_output, base.is_tied),
    ):
        if rows is not None:
            found[field] = _row_part(rows, target, is_known=is_known)
    return found


def _row_part(rows: TokenRows, target: PackTarget, *, is_known: bool) -> TokenRowPart:
    """Lay out `rows`; of those whose base is known, the ones that differ from it, one at least."""
    ids, values = rows.ids, rows.values
    if ids is None:
        ids = torch.arange(len(values))
    if is_known and target.parts.rows is not None:
        base = target.parts.rows
        same = torch.cat(
            [
                (base[some.to(base.device)].float().cpu() == own.float()).all(1)
                for some, own in zip(torch.split(ids, 4096), torch.split(values, 4096), strict=True)
            ]
        )
        same[0] &= not same.all()
        ids, values = ids[~same], values[~same]
    # Half as long where that is how it was saved, and what the model computes in.
    dtype = values.dtype if values.dtype == target.layout.dtype else torch.float32
    data = target.empty(values.numel(), dtype)
    data.view(values.shape).copy_(values)
    widths = np.full(len(ids), values.shape[1], dtype=np.int64)
    return TokenRowPart(vectors=pack_vectors(data, widths, target.block_bytes), ids=ids)


def pieces_of(offsets: npt.NDArray[np.int64], width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (place, first row, rows) of the rows that lie one behind the other."""
    ends = [*(np.flatnonzero(np.diff(offsets) != width) + 1).tolist(), len(offsets)]
    first = 0
    for end in ends:
        yield int(offsets[first]), first, end - first
        first = end


def cost_of_tokens(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of the rows of ten new tokens, in the embedding and in the output layer."""
    rows = [(20, pool.base.shape.hidden_size)]
    return {"tokens: 10, embedding and output": pool.cost_of(rows)}
