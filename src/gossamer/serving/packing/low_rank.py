"""Low-rank adapters as parts for the pool."""

from collections.abc import Sequence

from gossamer.adapters.kinds.low_rank import LowRankAdapter
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts

EXAMPLE_RANKS = (4, 8, 16, 32, 64)
"""Ranks of the adapters whose cost is told."""


def pack_low_rank(adapter: LowRankAdapter, target: PackTarget) -> Parts:
    """Lay out the rows of a low-rank adapter."""
    return {"lora": target.rows.pack(adapter)}


def cost_of_low_rank(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of adapters of all linear layers, and of two in each decoder block."""
    costs = {f"low-rank {rank}, all linear": cost_of_rank(pool, rank) for rank in EXAMPLE_RANKS}
    costs |= {
        f"low-rank {rank}, q and v": cost_of_rank(pool, rank, ("q_proj", "v_proj"))
        for rank in EXAMPLE_RANKS
    }
    return costs


def cost_of_rank(pool: PoolSizes, rank: int, targets: Sequence[str] | None = None) -> Cost:
    """Tell the cost of A and B of all linear layers, or of those named in `targets`."""
    shapes = [
        shape
        for path, shape in pool.base.shape.linears.items()
        if targets is None or path.rsplit(".", 1)[-1] in targets
    ]
    rows = [(rank, size) for h_out, h_in in shapes for size in (h_in, h_out)]
    return pool.cost_of(rows, width=pool.row_width)
