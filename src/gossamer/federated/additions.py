"""What rounds add to the weights of a base, whatever the type of its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.federated.aggregation.tensors import FactorPair
from gossamer.methods.common.low_rank import ADAPTER, lora_layers


class Additions:
    """Lets a model compute with what a server has added to the base in each round so far.

    A base in float32 gets it into its weights. One in bfloat16 keeps its own: a change below the
    256th part of a weight would be rounded away, each round again and in the sum too, and what is
    exported would be another model. There the sum of all rounds, made in float32, is a product of
    its own beside the layer, which costs the memory and the time of that layer once more.
    """

    def __init__(self) -> None:
        self._rounds = 0
        """How many rounds' additions the model has."""
        self._beside: dict[str, _Beside] = {}

    def take(self, model: Any, merged: Sequence[Mapping[str, FactorPair]]) -> None:
        """Add what is news in `merged`, which has what was added in each round from the first."""
        if len(merged) <= self._rounds:
            return
        news = merged[self._rounds :]
        self._rounds = len(merged)
        with torch.no_grad():
            for path, layer in lora_layers(model):
                if not any(path in pairs for pairs in news):
                    continue
                base = layer.get_base_layer()
                if base.weight.dtype == torch.float32:
                    for pairs in news:
                        if path in pairs:
                            change = _change(layer, [pairs[path]])
                            base.weight += change.t() if layer.fan_in_fan_out else change
                    continue
                if path not in self._beside:
                    self._beside[path] = _Beside()
                    base.register_forward_hook(self._beside[path])
                # Of all rounds, so that the sum is rounded once.
                whole = _change(layer, [pairs[path] for pairs in merged if path in pairs])
                self._beside[path].weight = whole.to(base.weight.dtype)


class _Beside:
    """Adds to the result of a layer what its input gives by a second weight [h_out, h_in]."""

    weight: Tensor

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + nn.functional.linear(inputs[0], self.weight)


def _change(layer: Any, pairs: Sequence[FactorPair]) -> Tensor:
    """Return the sum of the products, [h_out, h_in] in float32, where the layer is."""
    device = layer.get_base_layer().weight.device
    total = sum(pair.b.to(device).float() @ pair.a.to(device).float() for pair in pairs)
    return layer.scaling[ADAPTER] * torch.as_tensor(total)
