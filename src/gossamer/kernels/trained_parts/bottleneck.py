"""Bottleneck: a small network behind a linear layer, z + s (U f(D z + a) + b), of each token's own
adapter (arXiv 1902.00751, arXiv 2005.00247)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
"""What f may be, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBottleneck:
    """One network in the pool, float32; n is the width of z.

    It is cut into pieces of some inner channels each, so that none is longer than a block: since f
    takes each channel alone, what the pieces make adds up.
    """

    pieces: tuple[tuple[int, int], ...]
    """(place in elements, channels k) of each: D [k, n], U transposed [k, n] and a [k]."""
    bias: int
    """Place of b [n], in elements."""
    scale: float
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BottleneckTable:
    """The networks of one resident adapter."""

    modules: Mapping[int, PlacedBottleneck]
    """By the number of the linear layer that each stands behind."""


def add_network_(z: Tensor, pool: Tensor, network: PlacedBottleneck) -> None:
    """Add to z [T, n], in place, what the network makes of it; computed in float32.

    pool: the block pool as float32.
    """
    width = z.shape[1]
    activation = ACTIVATIONS[network.activation]
    x = z.float()
    change = pool[network.bias : network.bias + width].expand(len(z), -1)
    for place, channels in network.pieces:
        size = channels * width
        down = pool[place : place + size].view(channels, width)
        up = pool[place + size : place + 2 * size].view(channels, width)
        bias = pool[place + 2 * size : place + 2 * size + channels]
        change = change + activation(functional.linear(x, down, bias)) @ up
    z += (change * network.scale).to(z.dtype)
