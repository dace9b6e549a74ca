"""Edits of hidden states as rows in blocks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gossamer.adapters.kinds.intervention import Edit, InterventionAdapter
from gossamer.kernels.hidden_edit import EditTable
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import Empty, VectorPart, host_empty, join, pack_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPart(VectorPart):
    """Edits of hidden states in host memory."""

    first_row: npt.NDArray[np.int64]  # [L, 2]
    rank: npt.NDArray[np.int32]  # [L, 2]
    first_positions: int
    last_positions: int

    def place(self, pool: Tensor, blocks: list[int]) -> EditTable:
        """Copy the edits into `blocks` of the pool's bytes."""
        return EditTable(
            first_row=self.first_row,
            rank=self.rank,
            offsets=self.vectors.write(pool, blocks),
            first_positions=self.first_positions,
            last_positions=self.last_positions,
        )


def pack_edits(
    adapter: InterventionAdapter, num_layers: int, block_bytes: int, empty: Empty = host_empty
) -> EditPart:
    """Lay out the edits; one that both groups of positions share is stored once."""
    first_row = np.zeros((num_layers, 2), dtype=np.int64)
    rank = np.zeros((num_layers, 2), dtype=np.int32)
    rows: list[Tensor] = []
    stored: dict[int, int] = {}
    for group, edits in enumerate((adapter.first, adapter.last)):
        for layer, edit in edits.items():
            if id(edit) not in stored:
                stored[id(edit)] = len(rows)
                rows += _rows(edit, is_loreft=adapter.variant == "loreft")
            first_row[layer, group] = stored[id(edit)]
            rank[layer, group] = len(edit.bias)
    data, widths = join(rows, empty)
    return EditPart(
        vectors=pack_vectors(data, widths, block_bytes),
        first_row=first_row,
        rank=rank,
        first_positions=adapter.first_positions,
        last_positions=adapter.last_positions,
    )


def pack_intervention(adapter: InterventionAdapter, target: PackTarget) -> Parts:
    """Lay out the edits of an intervention."""
    layers, block_bytes = target.base.num_layers, target.block_bytes
    return {"edit": pack_edits(adapter, layers, block_bytes, target.empty)}


def cost_of_intervention(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of an edit per decoder block, first and last positions tied (LoReFT)."""
    rank, shape = 8, pool.base.shape
    edits = [(2 * rank, shape.hidden_size), (1, rank)] * shape.num_layers
    return {f"intervention: LoReFT {rank}, every layer": pool.cost_of(edits)}


def _rows(edit: Edit, *, is_loreft: bool) -> list[Tensor]:
    """Rows of A, of R, and b, of h += R^T (A h + b)."""
    rotate, weight = edit.rotate.float(), edit.weight.float()
    return [*(weight - rotate if is_loreft else weight), *rotate, edit.bias.float()]
