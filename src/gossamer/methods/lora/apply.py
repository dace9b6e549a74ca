"""From the settings of a LoRA relative to PEFT's `LoraConfig`."""

import re
from typing import Any

from peft import LoraConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.model_parts import check_layers
from gossamer.methods.targets import linear_paths, resolve_targets


def lora_config(model: Any, settings: LoraSettings, **fields: Any) -> LoraConfig:
    """The `LoraConfig` for `model`; `fields` are PEFT's, e.g. `use_dora=True`.

    Raises `SettingError` when a target, a layer number or a pattern matches nothing in `model`.
    """
    targets = resolve_targets(model, settings.target_modules)
    check_layers(model, settings.layers)
    for name in ("rank_pattern", "alpha_pattern"):
        _check_pattern(model, name, getattr(settings, name))
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=_plain(settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=targets,
        layers_to_transform=settings.layers,
        rank_pattern=settings.rank_pattern,
        alpha_pattern={key: _plain(value) for key, value in settings.alpha_pattern.items()},
        **fields,
    )


def _check_pattern(model: Any, name: str, pattern: dict[str, Any]) -> None:
    for key in pattern:
        try:
            # PEFT's own rule for pattern keys.
            expression = re.compile(rf"(.*\.)?({key})$")
        except re.error as error:
            raise SettingError(f"{name}: '{key}' is no regular expression: {error}") from None
        if not any(expression.match(path) for path in linear_paths(model)):
            raise SettingError(f"{name}: '{key}' matches no linear layer of the model")


def _plain(value: float) -> float:
    """32.0 as 32: the form in which other tools expect alpha."""
    return int(value) if value == int(value) else value
