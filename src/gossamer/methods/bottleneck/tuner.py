"""Bottleneck adapters as a PEFT tuner; importing this makes PEFT load their folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import TaskType
from peft.tuners.tuners_utils import _get_in_out_features
from torch import nn
from torch.nn import functional

from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.model_parts import select_targets
from gossamer.methods.peft_bridge import GossamerConfig, GossamerTuner, register_tuner
from gossamer.methods.tuner_layer import GossamerLayer, require_linear

PREFIX = "bottleneck_"
_ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass
class BottleneckConfig(GossamerConfig):
    """PEFT configuration of a bottleneck behind each layer of `target_modules`."""

    tuner_type: ClassVar[str] = "GOSSAMER_BOTTLENECK"

    width: int = 64
    activation: str = "relu"
    scale: float = 1.0


class BottleneckLinear(GossamerLayer):
    """y = z + scale * U f(D z + b1) + b2 with z the output of the layer inside."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ()
    # Given by PEFT's mixin, which is untyped.
    _cast_input_dtype: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__(base_layer)
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self._configs: dict[str, BottleneckConfig] = {}
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
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
        """[..., h_in] to [..., h_out]; active adapters follow one another."""
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
        raise _not_mergeable()

    def unmerge(self) -> None:
        """Always raises, as `merge`."""
        raise _not_mergeable()


class BottleneckModel(GossamerTuner):
    """PEFT tuner that puts `BottleneckLinear`s around linear layers."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLinear

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLinear):
            target.update_layer(adapter_name, peft_config)
            return
        require_linear(target, current_key, method="bottleneck", quantized=True)
        layer = BottleneckLinear(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise _not_mergeable()


def bottleneck_config(model: Any, settings: Mapping[str, Any]) -> BottleneckConfig:
    """The configuration for `model`; raises `SettingError` where the settings do not fit."""
    return BottleneckConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=select_targets(model, settings["target_modules"], settings["layers"]),
        width=settings["width"],
        activation=settings["activation"],
        scale=settings["scale"],
    )


def _not_mergeable() -> UnsupportedAdapterError:
    return UnsupportedAdapterError(
        "a bottleneck adapter cannot be merged: what follows a nonlinearity is no change of a "
        "weight; keep the adapter, or train 'lora', which can"
    )


register_tuner(BottleneckConfig.tuner_type, BottleneckConfig, BottleneckModel, PREFIX)
