"""Two streams through reversible layers, of the tokens of one adapter (MEFT, arXiv 2306.00477).

A layer that norms before its sublayers is u = x + a(n1(x)), L(x) = u + m(n2(u)), with attention a,
MLP m and norms n1, n2. The model computes a and m for all tokens of a step; what is told here is
what those of such an adapter read, and what becomes of their streams.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.kernels.trained_parts.bottleneck import ACTIVATIONS
from gossamer.kernels.trained_parts.placed import PlacedLinear


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamNetwork:
    """A(x) = U f(D x + a) + b in the pool."""

    down: PlacedLinear
    up: PlacedLinear


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamTable:
    """The networks of one resident adapter, and how its layers are coupled."""

    layers: tuple[tuple[StreamNetwork, StreamNetwork], ...]
    """The networks of F and of G of each layer, from the first of the model on."""
    variant: str
    """meft1: F is the layer with its network beside the MLP, G a network; meft2: the other way
    round; meft3: F is the attention block with a network behind it, G the MLP block with one beside
    the MLP."""
    lam: float
    beta: float
    keep: tuple[float, float]
    """What the halves with residuals, F and G, bring of their input along."""
    activation: str
    dtype: torch.dtype
    """The type of the streams, unless the model computes in a wider one."""


def unit_rms(x: Tensor) -> Tensor:
    """Scale each vector of [..., d] to a mean square of 1.

    For a network that stands alone: the streams of a model that norms before its sublayers are not
    normed, and single channels reach thousands.
    """
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Streams:
    """The streams (x1, x2) of n tokens: y1 = lam x1 + F(x2), y2 = beta x2 + G(y1) in each layer.

    For each layer `read`, `after_attention` and `after_mlp` are called in this order, and `mean`
    after the last.
    """

    def __init__(self, hidden: Tensor, pool: Tensor, table: StreamTable) -> None:
        """hidden: what goes into the first layer, [n, d]; pool: the block pool as float32."""
        stream = hidden.to(torch.promote_types(table.dtype, hidden.dtype))
        self._x1 = self._x2 = stream
        self._pool = pool
        self._table = table
        self._layer = 0
        # Of the layer being computed: what goes into it, a of that, and what goes into n2.
        self._in = self._change = self._u = stream

    def read(self) -> Tensor:
        """Return what the present layer reads, [n, d] in the type of the streams."""
        self._in = self._x2
        if self._table.variant == "meft2":
            self._in = self._table.lam * self._x1 + self._alone(0, self._x2)
        return self._in

    def after_attention(self, out: Tensor) -> Tensor:
        """Return what the second norm reads; `out` is a(n1(x)), [n, d] in the model's type."""
        self._change = out.to(self._in.dtype)
        if self._table.variant == "meft3":
            half = self._table.keep[0] * self._in + self._change + self._network(0, out)
            self._u = self._table.lam * self._x1 + half
        else:
            self._u = self._in + self._change
        return self._u

    def after_mlp(self, normed: Tensor, out: Tensor) -> None:
        """Go on to the next layer; `normed` is n2(u) and `out` the MLP of it, [n, d] each."""
        table = self._table
        lam, beta, (keep_f, keep_g) = table.lam, table.beta, table.keep
        half = int(table.variant != "meft1")
        mlp = out.to(self._u.dtype) + self._network(half, normed)
        if table.variant == "meft1":
            y1 = lam * self._x1 + (keep_f * self._in + self._change + mlp)
            self._x1, self._x2 = beta * self._x2 + self._alone(1, y1), y1
        elif table.variant == "meft2":
            y2 = beta * self._x2 + (keep_g * self._in + self._change + mlp)
            self._x1, self._x2 = y2, self._in
        else:
            y2 = beta * self._x2 + (keep_g * self._u + mlp)
            self._x1, self._x2 = self._u, y2
        self._layer += 1

    def mean(self) -> Tensor:
        """Return what leaves the last layer, [n, d] in the type of the streams."""
        return (self._x1 + self._x2) / 2

    def _network(self, half: int, x: Tensor) -> Tensor:
        """A(x) of F (0) or G (1), computed in float32."""
        network = self._table.layers[self._layer][half]
        inner = network.down.on(self._pool)(x.float())
        made = network.up.on(self._pool)(ACTIVATIONS[self._table.activation](inner))
        return made.to(self._in.dtype)

    def _alone(self, half: int, x: Tensor) -> Tensor:
        return self._network(half, unit_rms(x))
