"""The adapter of MEFT: a bottleneck without a residual of its own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ACTIVATIONS: dict[str, Any] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True)
class StreamAdapter:
    """U drop(f(D x + b1)) + b2, with D [w, d] and U [d, w]."""

    down: Any
    """The linear layer of D and b1."""
    up: Any
    """The linear layer of U and b2."""
    activation: str
    dropout: float
    """The share that is dropped; 0 outside of training."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map [..., d] of any floating type to [..., d], in the type of the weights."""
        inner = _ACTIVATIONS[self.activation](self.down(x.to(self.down.weight.dtype)))
        change: Tensor = self.up(functional.dropout(inner, self.dropout))
        return change


def new_linears(size: int, width: int) -> tuple[nn.Linear, nn.Linear]:
    """Make the two layers of an adapter of a stream of `size` channels.

    The weights are drawn from N(0, 0.02²) and the biases are 0, as published: the adapter adds
    nearly nothing at the start.
    """
    linears = nn.Linear(size, width), nn.Linear(width, size)
    for linear in linears:
        nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    return linears
