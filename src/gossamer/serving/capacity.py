"""What adapters and tokens weigh in the pool, by arithmetic on a base model's sizes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gossamer.adapters.base_shape import BaseShape
from gossamer.serving.packing.vectors import block_starts

FLOAT = 4
"""Bytes of a float32, in which keys, values and most rows rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSizes:
    """A base model's sizes, read from its config."""

    shape: BaseShape
    num_parameters: int
    max_context: int

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.shape.num_layers * self.shape.num_kv_heads * self.shape.head_dim * FLOAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one adapter takes."""

    num_bytes: int
    """Its own weight."""
    num_blocks: int
    """Blocks; what their ends waste is included."""


def low_rank(
    shape: BaseShape, rank: int, targets: Sequence[str] | None, width: int, block_bytes: int
) -> Cost:
    """Rows of A and B of all linear layers, or of those whose names end in one of `targets`.

    `width`: bytes of an element: 4, 2 or 1.
    """
    chosen = _chosen(shape.linears, targets)
    rows = [(rank, size) for h_out, h_in in chosen.values() for size in (h_in, h_out)]
    return _cost(rows, width, block_bytes)


def gain(shape: BaseShape, block_bytes: int) -> Cost:
    """What DoRA adds to its low-rank rows: a factor per output of every linear layer."""
    return _cost([(1, h_out) for h_out, _ in shape.linears.values()], FLOAT, block_bytes)


def sparse_entries(shape: BaseShape, density: float, block_bytes: int) -> Cost:
    """Scattered entries of all linear layers (SHiRA): a value and a column for each.

    Spread evenly over rows here; real masks differ from row to row by a few bytes.
    """
    rows = [(h_out, 2 * max(1, round(density * h_in))) for h_out, h_in in shape.linears.values()]
    return _cost(rows, FLOAT, block_bytes)


def sparse_blocks(shape: BaseShape, density: float, side: int, block_bytes: int) -> Cost:
    """Square blocks (SMT) that hold `density` of the linear layers: values alone."""
    weights = sum(h_out * h_in for h_out, h_in in shape.linears.values())
    return _cost([(max(1, round(density * weights / side**2)) * side, side)], FLOAT, block_bytes)


def edit(shape: BaseShape, rank: int, block_bytes: int) -> Cost:
    """One edit of rank `rank` per decoder block, first and last positions tied (LoReFT)."""
    width = shape.hidden_size
    return _cost([(2 * rank, width), (1, rank)] * shape.num_layers, FLOAT, block_bytes)


def prefix(sizes: BaseSizes, tokens: int, block_tokens: int) -> Cost:
    """Keys and values of virtual tokens (prompt and prefix tuning)."""
    return Cost(num_bytes=tokens * sizes.token_bytes, num_blocks=-(-tokens // block_tokens))


def together(*costs: Cost) -> Cost:
    """Several parts of one adapter; each begins a block of its own."""
    return Cost(
        num_bytes=sum(cost.num_bytes for cost in costs),
        num_blocks=sum(cost.num_blocks for cost in costs),
    )


def _chosen(
    linears: Mapping[str, tuple[int, int]], targets: Sequence[str] | None
) -> dict[str, tuple[int, int]]:
    return {
        path: shape
        for path, shape in linears.items()
        if targets is None or path.rsplit(".", 1)[-1] in targets
    }


def _cost(rows: Sequence[tuple[int, int]], width: int, block_bytes: int) -> Cost:
    """Of vectors (number, elements of `width` bytes), packed as the pool packs them."""
    counts, elements = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    bounds = np.concatenate([[0], np.cumsum(np.repeat(elements, counts))])
    return Cost(
        num_bytes=int(bounds[-1]) * width,
        num_blocks=len(block_starts(bounds, block_bytes // width)) - 1,
    )
