"""Bottlenecks as pieces in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.adapters.kinds.networks.bottleneck import BottleneckAdapter, Network
from gossamer.errors import UnsupportedAdapterError
from gossamer.kernels.trained_parts.bottleneck import BottleneckTable, PlacedBottleneck
from gossamer.serving.packing.capacity import FLOAT, Cost, PoolSizes
from gossamer.serving.packing.target import PackTarget, Parts
from gossamer.serving.packing.vectors import VectorPart, join, pack_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckPart(VectorPart):
    """Networks in host memory: of each its pieces, then what is added in the end."""

    modules: list[tuple[int, tuple[int, ...]]]
    """The layer that each stands behind, and the inner channels of its pieces."""
    scale: float
    activation: str

    def place(self, pool: Tensor, blocks: list[int]) -> BottleneckTable:
        """Copy the networks into `blocks` of the pool's bytes."""
        places = iter(self.vectors.write(pool, blocks).tolist())
        modules = {}
        for module, channels in self.modules:
            pieces = tuple((next(places), count) for count in channels)
            modules[module] = PlacedBottleneck(
                pieces=pieces, bias=next(places), scale=self.scale, activation=self.activation
            )
        return BottleneckTable(modules=modules)


def pack_bottleneck(adapter: BottleneckAdapter, target: PackTarget) -> Parts:
    """Lay out the networks of an adapter.

    Raises `UnsupportedAdapterError` for one behind a layer whose outputs are divided among ranks,
    and for a layer that is wider than half a block.
    """
    rows: list[Tensor] = []
    modules: list[tuple[int, tuple[int, ...]]] = []
    for path in sorted(adapter.networks, key=target.module_ids.__getitem__):
        outputs = target.slices.of(path).outputs
        if outputs != slice(None):
            raise UnsupportedAdapterError(
                f"adapter {adapter.name} has a network behind {path}, of which each rank computes "
                "some outputs alone; serve it without --tensor-parallel"
            )
        network = adapter.networks[path]
        most = _channels(target.block_bytes, len(network.up_bias))
        if not most:
            needed = (2 * len(network.up_bias) + 1) * FLOAT
            token_bytes = target.block_bytes // target.layout.block_tokens
            raise UnsupportedAdapterError(
                f"adapter {adapter.name}: a channel of the network behind {path} takes {needed} "
                f"bytes, and a block has {target.block_bytes}; serve with --block-tokens "
                f"{-(-needed // token_bytes)} or more"
            )
        pieces = list(_pieces(network, most))
        modules.append((target.module_ids[path], tuple(count for count, _ in pieces)))
        rows += [*(piece for _, piece in pieces), network.up_bias.float()]
    data, widths = join(rows, target.empty)
    return {
        "bottleneck": BottleneckPart(
            vectors=pack_vectors(data, widths, target.block_bytes),
            modules=modules,
            scale=adapter.scale,
            activation=adapter.activation,
        )
    }


def _channels(block_bytes: int, width: int) -> int:
    """The most inner channels of a piece."""
    return block_bytes // FLOAT // (2 * width + 1)


def _pieces(network: Network, most: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (channels, D, U transposed and a, one behind the other)."""
    for down, up, bias in zip(
        torch.split(network.down.float(), most),
        torch.split(network.up.float().T, most),
        torch.split(network.down_bias.float(), most),
        strict=True,
    ):
        yield len(bias), torch.cat([down.reshape(-1), up.reshape(-1), bias])


def cost_of_bottleneck(pool: PoolSizes) -> dict[str, Cost]:
    """Tell the cost of a network behind the MLP of each decoder block (Pfeiffer)."""
    channels, shape = 64, pool.base.shape
    width = shape.hidden_size
    most = min(channels, max(1, _channels(pool.block_bytes, width)))
    whole, rest = divmod(channels, most)
    of_each = [(whole, most * (2 * width + 1)), (int(rest > 0), rest * (2 * width + 1)), (1, width)]
    cost = pool.cost_of([vector for vector in of_each if vector[0]] * shape.num_layers)
    return {f"bottleneck: Pfeiffer {channels}": cost}
