"""Bottleneck adapters as a PEFT tuner; importing this makes PEFT load their folders."""

from collections.abc import Mapping
from typing import Any

from peft import TaskType
from torch import nn

from gossamer.methods.bottleneck.config import BottleneckConfig
from gossamer.methods.bottleneck.layer import BottleneckLinear, not_mergeable
from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.common.targets import select_targets
from gossamer.methods.common.tuner_layer import require_linear

PREFIX = "bottleneck_"


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
        raise not_mergeable()


def bottleneck_config(model: Any, settings: Mapping[str, Any]) -> BottleneckConfig:
    """The configuration for `model`; raises `SettingError` where the settings do not fit."""
    return BottleneckConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=select_targets(model, settings["target_modules"], settings["layers"]),
        width=settings["width"],
        activation=settings["activation"],
        scale=settings["scale"],
    )


register_tuner(BottleneckConfig.tuner_type, BottleneckConfig, BottleneckModel, PREFIX)
