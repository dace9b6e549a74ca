"""What was learnt of biases and norms as vectors in blocks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gossamer.adapters.kinds.trained_parts import TrainedParts
from gossamer.adapters.kinds.vector import VectorAdapter
from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.trained_parts.shift import ShiftTable
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import VectorPart, join, pack_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftPart(VectorPart):
    """Vectors that are added, in host memory."""

    ids: npt.NDArray[np.int64]
    """Number of each vector."""
    num_vectors: int
    """How many numbers there are in the whole model."""

    def place(self, pool: Tensor, blocks: list[int]) -> ShiftTable:
        """Copy the vectors into `blocks` of the pool's bytes."""
        offsets = np.full(self.num_vectors, -1, dtype=np.int64)
        offsets[self.ids] = self.vectors.write(pool, blocks)
        return ShiftTable(offsets=offsets)


def pack_vector(adapter: VectorAdapter, target: PackTarget) -> Parts:
    """Lay out the biases and norms of an adapter, as differences to the base's."""
    return shift_parts(adapter.parts, target)


def shift_parts(parts: TrainedParts, target: PackTarget) -> Parts:
    """Lay out the differences of vectors to those of the base; no part if there are none.

    Raises `UnsupportedAdapterError` for a bias of the base of which the ranks have parts of a sum.
    """
    base = target.parts
    own = {
        f"{path}.bias": _own(f"{path}.bias", value, target) for path, value in parts.added.items()
    }
    for name, value in parts.trained.items():
        if target.slices.of(name.rpartition(".")[0]).is_partial:
            raise UnsupportedAdapterError(
                f"an adapter that trained {name}, which several ranks add up, is served without "
                "--tensor-parallel only"
            )
        difference = _own(name, value, target) - base.vectors[name]
        own[name] = own[name] + difference if name in own else difference
    if not own:
        return {}
    names = sorted(own, key=base.vector_ids.__getitem__)
    data, widths = join([own[name] for name in names], target.empty)
    return {
        "shift": ShiftPart(
            vectors=pack_vectors(data, widths, target.block_bytes),
            ids=np.array([base.vector_ids[name] for name in names], dtype=np.int64),
            num_vectors=base.num_vectors,
        )
    }


def _own(name: str, value: Tensor, target: PackTarget) -> Tensor:
    """Cut out what a rank holds of the outputs of a layer, as float32."""
    return value.float()[target.slices.of(name.rpartition(".")[0]).outputs]


def cost_of_vectors(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of the weights of all norms (two in each decoder block and the last)."""
    shape = pool.base.shape
    return {"vector: all norms": pool.cost_of([(2 * shape.num_layers + 1, shape.hidden_size)])}
