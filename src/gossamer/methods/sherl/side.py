"""The side network of SHERL: an adapter for each state that is read, and what makes one of them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossamer.adapters.kinds.networks.side_network import FORMS
from gossamer.kernels.trained_parts.side_equations import FEATURES, SHARPNESS, Layer, aggregate


class SideNetwork(nn.Module):
    """o = fc_out relu(a) + g f_K with a = sum_k w_k p_k + p_K, of the states f_0 ... f_K.

    With `gated` g = tanh(gamma / 0.1) and gamma starts at 0, so nothing of f_K goes on but what its
    adapter lets through. Otherwise g = 1 and fc_out starts at zero, so o = f_K at first.

    What the adapters of the states have in common is stacked, [K + 1, ...], and no module lies in
    another: PEFT takes an adapter's name out of the names of weights only just before their end.
    """

    attn_weight: Tensor
    attn_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def __init__(self, width: int, inner: int, taps: int, *, form: str, gated: bool) -> None:
        super().__init__()
        self._feature, self._layers = FEATURES[form], FORMS[form]
        for layer in self._layers:
            if layer == "layernorm":
                weight, bias = torch.ones(taps, inner), torch.zeros(taps, inner)
            else:
                columns = width if layer == "fc1" else inner
                weight, bias = _random(columns, taps, inner)
            self._add(layer, weight, bias)
        self._add("attn", *(value[0] for value in _random(inner, 1, 1)))
        out = (value[0] for value in _random(inner, 1, width))
        self._add("out", *(value if gated else torch.zeros_like(value) for value in out))
        # One number, yet not without a dimension, which sharded training refuses.
        self.gamma = nn.Parameter(torch.zeros(1)) if gated else None

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Make one state [..., d] of the K + 1 `states` [..., d], in the type of the last."""
        last, dtype = states[-1], self.out_weight.dtype
        if not torch.is_autocast_enabled(last.device.type):
            states = [state.to(dtype) for state in states]
        # One gradient for each stack; of slices each would be as large as the whole stack.
        stacks = [self._stack(layer) for layer in self._layers]
        features = [
            self._feature(state, *layers) for state, *layers in zip(states, *stacks, strict=True)
        ]
        mixed = self._mix(features).relu().to(dtype)
        change = functional.linear(mixed, self.out_weight, self.out_bias)
        kept = states[-1] if self.gamma is None else self._gate().to(change.dtype) * states[-1]
        return (kept + change).to(last.dtype)

    def _add(self, layer: str, weight: Tensor, bias: Tensor) -> None:
        setattr(self, f"{layer}_weight", nn.Parameter(weight))
        setattr(self, f"{layer}_bias", nn.Parameter(bias))

    def _stack(self, name: str) -> list[Layer]:
        """The layer `name` of the adapter of each state."""
        weights, biases = (getattr(self, f"{name}_{part}").unbind() for part in ("weight", "bias"))
        pairs = zip(weights, biases, strict=True)
        if name == "layernorm":
            return [
                partial(functional.layer_norm, normalized_shape=w.shape, weight=w, bias=b)
                for w, b in pairs
            ]
        return [partial(functional.linear, weight=w, bias=b) for w, b in pairs]

    def _mix(self, features: list[Tensor]) -> Tensor:
        exact = torch.promote_types(features[0].dtype, torch.float32)
        with torch.autocast(features[0].device.type, enabled=False):
            *shallow, guide = (feature.to(exact) for feature in features)
            attend = self.attn_weight[0].to(exact), self.attn_bias.to(exact)
            return aggregate(torch.stack(shallow, dim=-2), guide, *attend)

    def _gate(self) -> Tensor:
        assert self.gamma is not None
        exact = torch.promote_types(self.gamma.dtype, torch.float32)
        return torch.tanh(self.gamma.to(exact) / SHARPNESS)


def kept_per_token(width: int, inner: int, taps: int, *, form: str) -> int:
    """Count the numbers that the side network keeps for its backward pass, for each token.

    Of each state: itself, what its adapter holds, and the feature in the stack of all. Of all
    together: the guide, its product with `attn`, the mixture, three squares of cosines, and for
    each weight some seven steps on the way to it.
    """
    of_adapter = {"gated": 3, "layer_norm": 1, "linear": 0}[form] * inner
    return taps * (width + of_adapter + inner) + 3 * inner + (3 * taps + 4) * (taps - 1)


def _random(columns: int, count: int, rows: int) -> tuple[Tensor, Tensor]:
    """Draw weights [count, rows, columns] and biases [count, rows], as linear layers start."""
    weight, bias = torch.empty(count, rows, columns), torch.empty(count, rows)
    for value in (weight, bias):
        nn.init.uniform_(value, -(columns**-0.5), columns**-0.5)
    return weight, bias
