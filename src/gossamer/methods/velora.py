"""VeLoRA: LoRA that keeps a compressed input for the backward pass (arXiv 2405.17991)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft.tuners.lora.config import VeloraConfig

from gossamer.errors import SettingError
from gossamer.methods.common.low_rank import ADAPTER, lora_layers, plain_factors, write_factors
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.common.targets import refuse_quantized
from gossamer.methods.lora import lora_config
from gossamer.methods.settings import LoraSettings, VeloraSettings

_DIRECTIONS = {
    "first_batch": "batch_average_once",
    "every_batch": "batch_average",
    "random": "random",
}


def velora_config(
    model: Any, settings: LoraSettings, *, groups: int, scale: float, direction: str
) -> Any:
    """Make PEFT's `LoraConfig`; raises `SettingError` on a quantised base, which PEFT ignores."""
    refuse_quantized(model, "velora", "PEFT's 4-bit and 8-bit layers would train plain LoRA")
    velora = VeloraConfig(num_groups=groups, scale=scale, init_type=_DIRECTIONS[direction])
    return lora_config(model, settings, velora_config=velora)


def compress_only(model: Any, modules: Sequence[str], groups: int) -> None:
    """Make all adapted layers but those named in `modules` plain LoRA layers again."""
    layers = dict(lora_layers(model))
    for name in modules:
        if not any(path == name or path.endswith(f".{name}") for path in layers):
            raise SettingError(
                f"compressed_modules: '{name}' is none of the layers that target_modules adapts"
            )
    for path, layer in layers.items():
        if not any(path == name or path.endswith(f".{name}") for name in modules):
            del layer.lora_variant[ADAPTER], layer.lora_velora_embed[ADAPTER]
        elif groups > layer.in_features:
            raise SettingError(
                f"groups {groups} is more than the {layer.in_features} inputs of {path}"
            )


def keep_directions(model: Any) -> None:
    """Keep the directions that were loaded; PEFT would choose others."""
    for _, layer in lora_layers(model):
        if ADAPTER in layer.lora_variant:
            chosen = bool(layer.lora_velora_embed[ADAPTER].any())
            layer.lora_velora_initialized[ADAPTER] = chosen


class Velora(PeftMethod[VeloraSettings]):
    """LoRA whose dL/dA uses (x v) v^T for the input x, group by group; the output is exact.

    Only the thin A sees the approximation. It saves memory where nothing else keeps that input, and
    none under gradient checkpointing, which computes the input again anyway. The result is a plain
    LoRA adapter.
    """

    name = "velora"
    kind = "low-rank"
    settings_type = VeloraSettings
    size_setting = "rank"

    def __init__(self, settings: VeloraSettings) -> None:
        super().__init__(settings)
        if settings.direction == "first_batch":
            self.one_process_because = (
                "each process would take its directions from a first batch of its own (or set "
                "direction to every_batch or random)"
            )

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        settings = self.settings
        return velora_config(
            model,
            settings,
            groups=settings.groups,
            scale=settings.gradient_scale,
            direction=settings.direction,
        )

    def prepare(self, model: Any, context: MethodContext) -> Any:
        model = super().prepare(model, context)
        compress_only(model, self.settings.compressed_modules, self.settings.groups)
        return model

    def restore(self, model: Any, folder: Path) -> None:
        super().restore(model, folder)
        keep_directions(model)

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        write_factors(folder, plain_factors(model), context)
