"""A linear layer with a small network behind it."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.bottleneck.config import BottleneckConfig
from gossamer.methods.common.peft_internals import get_in_out_features
from gossamer.methods.common.tuner_layer import GossamerLayer

_ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class BottleneckLinear(GossamerLayer):
    """y = z + scale * U f(D z + b1) + b2 with z the output of the layer inside."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ()
    # Given by PEFT's mixin, which is untyped.
    _cast_input_dtype: Any

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.in_features, self.out_features = get_in_out_features(self.get_base_layer())
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self._configs: dict[str, BottleneckConfig] = {}

    def update_layer(self, adapter_name: str, config: BottleneckConfig, path: str) -> None:
        """Add an adapter that changes nothing yet."""
        size = self.out_features
        down, up = nn.Linear(size, config.width), nn.Linear(config.width, size)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self._configs[adapter_name] = config
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map [..., h_in] to [..., h_out]; active adapters follow one another."""
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                result = result + self._change(name, result).to(result.dtype)
        return result

    def _change(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        config, down = self._configs[name], self.bottleneck_down[name]
        up: Any = self.bottleneck_up[name]
        activation: Any = _ACTIVATIONS[config.activation]
        inner = activation(down(self._cast_input_dtype(hidden, down.weight.dtype)))
        return up(inner) * config.scale

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always raises: what follows a nonlinearity is no change of a weight."""
        raise not_mergeable()

    def unmerge(self) -> None:
        """Always raises, as `merge`."""
        raise not_mergeable()


def not_mergeable() -> UnsupportedAdapterError:
    """Return the refusal to merge."""
    return UnsupportedAdapterError(
        "a bottleneck adapter cannot be merged: what follows a nonlinearity is no change of a "
        "weight; keep the adapter, or train 'lora', which can"
    )
