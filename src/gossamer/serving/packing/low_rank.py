"""Low-rank adapters as parts for the pool."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from gossamer.adapters.kinds.low_rank import LowRankAdapter
from gossamer.basemodel.sharded import ModelPart
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.grouped_lora.device_table import vector_bytes
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.shares.low_rank import own_outputs, own_rows
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.shard import ModuleSlice

EXAMPLE_RANKS = (4, 8, 16, 32, 64)
"""Ranks of the adapters whose cost is told."""


def pack_low_rank(adapter: LowRankAdapter, target: PackTarget) -> Parts:
    """Lay out the rows of a low-rank adapter."""
    if target.split_rows is not None:
        return {"split": target.split_rows.pack(adapter)}
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
    paths = [
        path
        for path in pool.base.shape.linears
        if targets is None or path.rsplit(".", 1)[-1] in targets
    ]
    return pool.with_tables(cost_of_rows(pool, rank, paths), table_bytes(pool, rank, len(paths)))


def cost_of_rows(pool: PoolSizes, rank: int, paths: Iterable[str]) -> Cost:
    """Tell the cost of A and B of the modules at `paths`, without their tables."""
    rows = [row for path in paths for row in _rows_of(pool, rank, path)]
    return pool.cost_of(rows, width=pool.row_width, aligned=True)


def _rows_of(pool: PoolSizes, rank: int, path: str) -> list[tuple[int, int]]:
    """Return (number, elements) of the rows of A and of B transposed that rank 0 has of a layer."""
    h_out, h_in = pool.base.shape.linears[path]
    layer = ModuleSlice(slice(h_out), slice(h_in), is_partial=path in pool.base.divided_inputs)
    outputs = own_outputs(h_out, layer, ModelPart(0, pool.split_ranks))
    return [(own_rows(rank, layer, pool.split_ranks), h_in), (rank, outputs.stop)]


def table_bytes(pool: PoolSizes, rank: int, num_adapted: int) -> npt.NDArray[np.int64]:
    """Return the sizes of the vectors of the table of an adapter with a rank in some modules."""
    row_format = next(each for each in RowFormat if each.dtype.itemsize == pool.row_width)
    ranks = np.full(num_adapted, rank, dtype=np.int32)
    return vector_bytes(len(pool.base.shape.linears), ranks, row_format)
