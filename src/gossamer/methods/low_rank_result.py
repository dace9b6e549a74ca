"""A run's result as a plain LoRA adapter of the untouched base, whatever the method kept inside."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.layout import PREFIX
from gossamer.adapters.write import derive_config, write_low_rank
from gossamer.methods.method import MethodContext

ADAPTER = "default"
"""PEFT's name of the one adapter that a run trains."""


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(path in the base model, PEFT layer) of each layer with LoRA factors."""
    for path, module in model.named_modules():
        if ADAPTER in getattr(module, "lora_A", {}):
            yield path.removeprefix(PREFIX), module


def write_factors(folder: Path, factors: Mapping[str, Factors], context: MethodContext) -> None:
    """Write `factors`, by path in the base model, into `folder` in PEFT's layout of LoRA."""
    config = {**derive_config(factors), "base_model_name_or_path": context.model_name}
    write_low_rank(
        folder, factors, config, base_fingerprint=context.base_fingerprint, overwrite=True
    )


def float_copy(parameter: Any) -> Any:
    """The weight as float32 on the CPU, apart from the model."""
    return parameter.detach().to("cpu").float().clone()


def plain_factors(model: Any) -> dict[str, Factors]:
    """The factors of each LoRA layer as they are."""
    return {
        path: Factors(
            a=float_copy(layer.lora_A[ADAPTER].weight),
            b=float_copy(layer.lora_B[ADAPTER].weight),
            scale=layer.scaling[ADAPTER],
        )
        for path, layer in lora_layers(model)
    }
