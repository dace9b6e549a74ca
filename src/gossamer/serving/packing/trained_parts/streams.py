"""Networks beside reversible layers as rows in blocks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gossamer.adapters.kinds.networks.two_streams import MODEL_TYPES, TwoStreamAdapter
from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.trained_parts.streams import StreamNetwork, StreamTable
from gossamer.serving.packing.capacity import Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.trained_parts.matrices import PlaceReader, pack_matrices
from gossamer.serving.packing.vectors import VectorPart


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPart(VectorPart):
    """Networks in host memory: D, a, U and b of F and of G of each layer."""

    inner: tuple[tuple[int, int], ...]
    """The inner channels of the networks of F and of G, by layer."""
    width: int
    table: StreamTable
    """What the table in the pool will say; its layers come with the blocks."""

    def place(self, pool: Tensor, blocks: list[int]) -> StreamTable:
        """Copy the networks into `blocks` of the pool's bytes."""
        reader = PlaceReader(self.vectors.write(pool, blocks))
        layers = tuple((self._network(f, reader), self._network(g, reader)) for f, g in self.inner)
        return replace(self.table, layers=layers)

    def _network(self, inner: int, reader: PlaceReader) -> StreamNetwork:
        down = reader.linear(inner, self.width)
        return StreamNetwork(down=down, up=reader.linear(self.width, inner))


def pack_streams(adapter: TwoStreamAdapter, target: PackTarget) -> Parts:
    """Lay out the networks of an adapter; each rank has them whole, as it has the states.

    Raises `UnsupportedAdapterError` for a base model that the equations are not written for, or as
    `pack_matrices`.
    """
    if not target.parts.norms_before:
        raise UnsupportedAdapterError(
            f"adapter {adapter.name} computes the layers of its base model on two streams, which "
            f"is written for models of type {', '.join(MODEL_TYPES)} alone; serve it with the base "
            "it was trained on"
        )
    networks = [network for layer in adapter.layers for network in layer]
    tensors = [
        tensor
        for network in networks
        for tensor in (network.down, network.down_bias, network.up, network.up_bias)
    ]
    keep = (1 - adapter.lam, 1 - adapter.beta) if adapter.is_shared else (1.0, 1.0)
    return {
        "streams": StreamPart(
            vectors=pack_matrices(adapter.name, tensors, target),
            inner=tuple((len(f.down), len(g.down)) for f, g in adapter.layers),
            width=len(networks[0].up_bias),
            table=StreamTable(
                layers=(),
                variant=adapter.variant,
                lam=adapter.lam,
                beta=adapter.beta,
                keep=keep,
                activation=adapter.activation,
                dtype=torch.float64 if adapter.is_double else torch.float32,
            ),
        )
    }


def cost_of_streams(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of two networks beside each layer but the last two."""
    channels, shape = 8, pool.base.shape
    layers, width = max(1, shape.num_layers - 2), shape.hidden_size
    network = [(channels, width), (1, channels), (width, channels), (1, width)]
    cost = pool.cost_of(network * (2 * layers))
    return {f"two-stream: MEFT {channels}, {layers} layers": cost}
