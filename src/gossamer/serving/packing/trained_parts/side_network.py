"""Side networks as rows in blocks."""

from dataclasses import dataclass

from torch import Tensor

from gossamer.adapters.kinds.networks.side_network import FORMS, SideAdapter
from gossamer.kernels.trained_parts.placed import PlacedLinear, PlacedNorm
from gossamer.kernels.trained_parts.side_network import SideTable
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.trained_parts.matrices import PlaceReader, pack_matrices
from gossamer.serving.packing.vectors import VectorPart


@dataclass(frozen=True, slots=True, kw_only=True)
class SidePart(VectorPart):
    """A side network in host memory: the layers of each state's adapter one after the other, what
    weighs the features, the layer of the output and the gate, if there is one."""

    layers: tuple[int, ...]
    form: str
    inner: int
    width: int
    is_gated: bool

    def place(self, pool: Tensor, blocks: list[int]) -> SideTable:
        """Copy the network into `blocks` of the pool's bytes."""
        reader = PlaceReader(self.vectors.write(pool, blocks))
        return SideTable(
            layers=self.layers,
            form=self.form,
            adapters=tuple(
                tuple(self._layer(layer, reader) for layer in FORMS[self.form])
                for _ in range(len(self.layers) + 1)
            ),
            attend=(reader.vector(), reader.vector()),
            inner=self.inner,
            out=reader.linear(self.width, self.inner),
            gamma=reader.vector() if self.is_gated else None,
        )

    def _layer(self, name: str, reader: PlaceReader) -> PlacedLinear | PlacedNorm:
        if name == "layernorm":
            return reader.norm(self.inner)
        return reader.linear(self.inner, self.width if name == "fc1" else self.inner)


def pack_side(adapter: SideAdapter, target: PackTarget) -> Parts:
    """Lay out the side network of an adapter; each rank has it whole, as it has the states.

    Raises as `pack_matrices`.
    """
    tensors = [
        adapter.stacks[f"{layer}_{part}"][state]
        for state in range(len(adapter.layers) + 1)
        for layer in FORMS[adapter.form]
        for part in ("weight", "bias")
    ]
    tensors += [*adapter.attend, *adapter.out]
    if adapter.gamma is not None:
        tensors.append(adapter.gamma)
    width, inner = adapter.out[0].shape
    return {
        "side": SidePart(
            vectors=pack_matrices(adapter.name, tensors, target),
            layers=adapter.layers,
            form=adapter.form,
            inner=inner,
            width=width,
            is_gated=adapter.gamma is not None,
        )
    }


def cost_of_side(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of a network of form `gated` over ten states, a quarter as wide as they are."""
    shape = pool.base.shape
    states, width = min(10, shape.num_layers + 1), shape.hidden_size
    inner = max(1, width // 4)
    of_state = [(inner, width), (1, inner), *2 * [(inner, inner), (1, inner)]]
    rest = [(1, inner), (1, 1), (width, inner), (1, width)]
    return {f"side-network: SHERL, {states} states": pool.cost_of(of_state * states + rest)}
