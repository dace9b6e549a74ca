"""F and G of a decoder layer that norms before its sublayers, for the three variants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.kernels.trained_parts.streams import unit_rms
from gossamer.methods.meft.adapter import StreamAdapter
from gossamer.methods.meft.config import MeftConfig
from gossamer.methods.meft.coupling import Coupling, Half


@dataclass(frozen=True, slots=True)
class LayerParts:
    """A decoder layer with two adapters, as functions of one stream.

    The layer is u = x + a(n1(x)), L(x) = u + m(n2(u)) with attention a, MLP m and norms n1, n2. It
    computes in `dtype`; its residuals are added in the type of the stream.
    """

    block: nn.Module
    adapter_f: StreamAdapter
    adapter_g: StreamAdapter
    arguments: Mapping[str, Any]
    """What the model gave the layer beside the hidden states: mask, rotations, cache."""
    dtype: torch.dtype

    def attention(self, x: Tensor) -> Tensor:
        """a(n1(x)) of [batch, tokens, d], in the layer's type."""
        block: Any = self.block
        normed = block.input_layernorm(x.to(self.dtype))
        result: Tensor = block.self_attn(hidden_states=normed, **self.arguments)[0]
        return result

    def mlp(self, u: Tensor, adapter: StreamAdapter) -> Tensor:
        """m(n2(u)) + A(n2(u)): the adapter stands beside the MLP and reads what it reads."""
        block: Any = self.block
        normed = block.post_attention_layernorm(u.to(self.dtype))
        result: Tensor = block.mlp(normed)
        return result.to(u.dtype) + adapter(normed).to(u.dtype)

    def whole(self, adapter: StreamAdapter, keep: float) -> Half:
        """x -> L(x) - (1 - keep) x, with `adapter` beside the MLP."""

        def half(x: Tensor) -> Tensor:
            change = self.attention(x).to(x.dtype)
            return keep * x + change + self.mlp(x + change, adapter)

        return half

    def alone(self, adapter: StreamAdapter) -> Half:
        """x -> A(x / rms(x))."""
        return lambda x: adapter(unit_rms(x)).to(x.dtype)

    def attention_block(self, keep: float) -> Half:
        """x -> keep x + o + A(o) with o = a(n1(x)): the adapter follows the output layer."""

        def half(x: Tensor) -> Tensor:
            out = self.attention(x)
            return keep * x + out.to(x.dtype) + self.adapter_f(out).to(x.dtype)

        return half

    def mlp_block(self, keep: float) -> Half:
        """u -> keep u + m(n2(u)) + A(n2(u))."""
        return lambda u: keep * u + self.mlp(u, self.adapter_g)


def couple(parts: LayerParts, config: MeftConfig) -> Coupling:
    """Make the coupling of a layer (arXiv 2306.00477, section 3.2), carried over to layers that
    norm before their sublayers.

    meft1: F is the layer L with its adapter beside the MLP, G an adapter; meft2: the other way
    round; meft3: F is the attention block, G the MLP block, each with its residual. With
    `residual: shared` the half that holds a residual gives as much of it away as the other stream
    brings: F(x) = L(x) - lam x, so that y1 = L(x2) + lam (x1 - x2). Both streams begin alike and
    differ by one layer's change later on, so y1 stays near L(x2) for any depth. With `whole`, y1 =
    L(x2) + lam x1, and since L passes x2 on whole, the streams grow by 1 + lam a layer.
    """
    lam, beta = config.factors
    shared = config.residual == "shared"
    keep_f, keep_g = (1 - lam, 1 - beta) if shared else (1.0, 1.0)
    if config.variant == "meft1":
        halves = parts.whole(parts.adapter_f, keep_f), parts.alone(parts.adapter_g)
    elif config.variant == "meft2":
        halves = parts.alone(parts.adapter_f), parts.whole(parts.adapter_g, keep_g)
    else:
        halves = parts.attention_block(keep_f), parts.mlp_block(keep_g)
    return Coupling(*halves, lam=lam, beta=beta, swapped=config.variant != "meft3")
