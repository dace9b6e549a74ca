"""Low-rank changes of the embedding and of the output layer, as pieces in blocks."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gossamer.adapters.kinds.table_factors import TableFactors
from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.trained_parts.table_factors import FactorTable
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.trained_parts.token_rows import pieces_of
from gossamer.serving.packing.vectors import VectorPart, pack_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFactorPart(VectorPart):
    """Factors in host memory: a row [rank] for each token, then `rank` rows [hidden]."""

    num_tokens: int
    rank: int
    hidden: int
    scale: float

    def place(self, pool: Tensor, blocks: list[int]) -> FactorTable:
        """Copy the factors into `blocks` of the pool's bytes."""
        offsets = self.vectors.write(pool, blocks)
        tokens, width = offsets[: self.num_tokens], offsets[self.num_tokens :]
        return FactorTable(
            tokens=torch.from_numpy(tokens).to(pool.device),
            pieces=tuple(pieces_of(tokens, self.rank)),
            width=torch.from_numpy(width).to(pool.device),
            hidden=self.hidden,
            scale=self.scale,
            dtype=self.vectors.data.dtype,
        )


def factor_parts(name: str, factors: dict[str, TableFactors], target: PackTarget) -> Parts:
    """Lay out the factors of the tables of `target`.

    Raises `UnsupportedAdapterError` for a row that is longer than a block.
    """
    base = target.parts
    fields = ((base.embedding, "embedding_factors"), (base.output, "output_factors"))
    return {field: _part(name, factors[p], target) for p, field in fields if p in factors}


def _part(name: str, factors: TableFactors, target: PackTarget) -> TableFactorPart:
    tokens, width = factors.tokens, factors.width
    # Half as long where that is how it was saved, and what the model computes in.
    is_short = {tokens.dtype, width.dtype} == {target.layout.dtype}
    dtype = target.layout.dtype if is_short else torch.float32
    longest = max(width.shape[1], factors.rank) * dtype.itemsize
    if longest > target.block_bytes:
        token_bytes = target.block_bytes // target.layout.block_tokens
        raise UnsupportedAdapterError(
            f"adapter {name}: a row of what it changes of the tables of tokens takes {longest} "
            f"bytes, and a block has {target.block_bytes}; serve with --block-tokens "
            f"{-(-longest // token_bytes)} or more"
        )
    data = target.empty(tokens.numel() + width.numel(), dtype)
    data[: tokens.numel()].view(tokens.shape).copy_(tokens)
    data[tokens.numel() :].view(width.shape).copy_(width)
    widths = np.repeat([factors.rank, width.shape[1]], [len(tokens), len(width)])
    return TableFactorPart(
        vectors=pack_vectors(data, widths, target.block_bytes),
        num_tokens=len(tokens),
        rank=factors.rank,
        hidden=width.shape[1],
        scale=factors.scale,
    )
