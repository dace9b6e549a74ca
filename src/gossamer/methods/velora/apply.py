"""VeLoRA through PEFT's variant of the LoRA layer, held to the layers and the paper's rule."""

from collections.abc import Sequence
from typing import Any

from peft.tuners.lora.config import VeloraConfig

from gossamer.errors import SettingError
from gossamer.methods.lora.apply import lora_config
from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.low_rank_result import ADAPTER, lora_layers
from gossamer.methods.model_parts import refuse_quantized

_DIRECTIONS = {
    "first_batch": "batch_average_once",
    "every_batch": "batch_average",
    "random": "random",
}


def velora_config(
    model: Any, settings: LoraSettings, *, groups: int, scale: float, direction: str
) -> Any:
    """PEFT's `LoraConfig`; raises `SettingError` on a quantised base, where PEFT ignores it."""
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
    """After loading: the directions that were loaded stay; PEFT would choose them anew."""
    for _, layer in lora_layers(model):
        if ADAPTER in layer.lora_variant:
            chosen = bool(layer.lora_velora_embed[ADAPTER].any())
            layer.lora_velora_initialized[ADAPTER] = chosen
