"""Linear layers and norms of an adapter's networks, read where they lie in the pool."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedLinear:
    """A linear layer W x + b in the pool, float32; W is [m, n], and its rows are cut where blocks
    end."""

    pieces: tuple[tuple[int, int], ...]
    """(place in elements, rows) of each piece of W, from its first row on."""
    columns: int
    """n."""
    bias: int
    """Place of b [m], in elements."""

    def on(self, pool: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the layer, [T, n] to [T, m] in float32; `pool` is the block pool as float32."""
        return partial(_apply, pool, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedNorm:
    """A layer norm of n channels in the pool, float32."""

    weight: int
    """Place of its weight [n], in elements."""
    bias: int
    """Place of its bias [n], in elements."""
    columns: int
    """n."""

    def on(self, pool: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the norm, [T, n] to [T, n] in float32; `pool` is the block pool as float32."""
        weight, bias = (pool[place : place + self.columns] for place in (self.weight, self.bias))
        return partial(
            functional.layer_norm, normalized_shape=weight.shape, weight=weight, bias=bias
        )


def _apply(pool: Tensor, layer: PlacedLinear, x: Tensor) -> Tensor:
    made, bias = [], layer.bias
    for place, rows in layer.pieces:
        weight = pool[place : place + rows * layer.columns].view(rows, layer.columns)
        made.append(functional.linear(x, weight, pool[bias : bias + rows]))
        bias += rows
    return made[0] if len(made) == 1 else torch.cat(made, dim=-1)
