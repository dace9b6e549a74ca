"""Bottleneck adapters as a PEFT tuner; importing this makes PEFT load their folders."""

from collections.abc import Mapping
from typing import Any

from peft import TaskType

from gossamer.methods.bottleneck.config import BottleneckConfig
from gossamer.methods.bottleneck.layer import BottleneckLinear, not_mergeable
from gossamer.methods.common.peft_tuner import GossamerTuner, register_tuner
from gossamer.methods.common.targets import select_targets

__all__ = ["BottleneckConfig", "BottleneckModel"]

PREFIX = "bottleneck_"


class BottleneckModel(GossamerTuner):
    """PEFT tuner that puts `BottleneckLinear`s around linear layers."""

    method = "bottleneck"
    allow_4bit = True
    prefix = PREFIX
    tuner_layer_cls = BottleneckLinear

    def _check_merge_allowed(self) -> None:
        raise not_mergeable()


def bottleneck_config(model: Any, settings: Mapping[str, Any]) -> BottleneckConfig:
    """Make the configuration for `model`; raises `SettingError` where settings do not fit."""
    return BottleneckConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=select_targets(model, settings["target_modules"], settings["layers"]),
        width=settings["width"],
        activation=settings["activation"],
        scale=settings["scale"],
    )


register_tuner(BottleneckConfig.tuner_type, BottleneckConfig, BottleneckModel, PREFIX)
