"""LoRA: a frozen weight plus a trainable product of two thin matrices (arXiv 2106.09685).

Its relatives differ in a field of PEFT's configuration: rsLoRA (2312.03732), DoRA (2402.09353).
"""

import re
from typing import Any

from peft import LoraConfig, TaskType

from gossamer.errors import SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import check_layers, linear_paths, resolve_targets
from gossamer.methods.settings import DoraSettings, LoraSettings, RsLoraSettings


def lora_config(model: Any, settings: LoraSettings, **fields: Any) -> LoraConfig:
    """Make the `LoraConfig` for `model`; `fields` are PEFT's, e.g. `use_dora=True`.

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


class Lora(PeftMethod[LoraSettings]):
    """y = W x + (alpha / rank) B A x, B starting at zero, W frozen."""

    name = "lora"
    kind = "low-rank"
    settings_type = LoraSettings
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return lora_config(model, self.settings)


class RsLora(PeftMethod[RsLoraSettings]):
    """y = W x + (alpha / sqrt(rank)) B A x: activations and gradients keep their size at any rank.

    At the default rank and alpha it is LoRA.
    """

    name = "rslora"
    kind = "low-rank"
    settings_type = RsLoraSettings
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return lora_config(model, self.settings, use_rslora=True)


class Dora(PeftMethod[DoraSettings]):
    """W' = m * V / |V| with V = W + (alpha / rank) B A, row by row; m, A and B learn."""

    name = "dora"
    kind = "gain"
    settings_type = DoraSettings
    size_setting = "rank"
    # The base's product and the adapter's, both of which are multiplied by the gain.
    outputs_kept = 2.0

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return lora_config(model, self.settings, use_dora=True)
