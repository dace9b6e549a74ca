"""SLoRA's two models: the base with entries that learn, and the same with primed LoRA."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor

from gossamer.methods.lora.apply import lora_config
from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.slora.config import SloraConfig
from gossamer.methods.slora.layer import SloraLinear
from gossamer.methods.slora.model import SloraModel
from gossamer.methods.slora.prime import Primed, prime_factors

_NAME = "default"

__all__ = ["Update", "enter_low_rank", "sparse_config", "updates"]


@dataclass(frozen=True)
class Update:
    """What stage 1 changed of one matrix."""

    index: Tensor
    """[2, n] rows and columns."""
    values: Tensor
    """[n]"""
    shape: tuple[int, int]


def sparse_config(
    model: Any, settings: LoraSettings, *, density: float, seed: int, rank: int = 0
) -> SloraConfig:
    """The configuration of stage 1, or of stage 2 with the residual kept if `rank` is given.

    Acts on the layers that LoRA would act on. Raises `SettingError` as `lora_config` does.
    """
    low_rank = lora_config(model, settings)
    return SloraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=sorted(low_rank.target_modules),
        layers_to_transform=low_rank.layers_to_transform,
        density=density,
        seed=seed,
        r=rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
    )


def updates(model: PeftModel) -> dict[str, Update]:
    """What stage 1 has learnt so far, by module path in the base model."""
    assert isinstance(model.base_model, SloraModel)
    return {
        path: Update(layer.index(_NAME), layer.slora_values[_NAME].detach(), layer.shape)
        for path, layer in model.base_model.model.named_modules()
        if isinstance(layer, SloraLinear)
    }


def enter_low_rank(
    model: PeftModel, settings: LoraSettings, *, density: float, seed: int, keep_residual: bool
) -> tuple[PeftModel, dict[str, float]]:
    """The model of stage 2 made of that of stage 1, and the share of energy kept, by module path.

    The base weights are what they were before stage 1. Where an update is nothing, or of lower rank
    than LoRA's, the factors (or the components left) begin as LoRA does: A random, B zero.
    """
    learnt = updates(model)
    base = model.unload()
    rank = settings.rank if keep_residual else 0
    config = (
        sparse_config(base, settings, density=density, seed=seed, rank=rank)
        if keep_residual
        else lora_config(base, settings)
    )
    primed_model = get_peft_model(base, config)
    layers = dict(primed_model.base_model.model.named_modules())
    retained = {}
    for path, update in learnt.items():
        if not update.values.is_meta:
            retained[path] = _prime(layers[path], update).retained
    return primed_model, retained


def _prime(layer: Any, update: Update) -> Primed:
    if isinstance(layer, SloraLinear):
        rank, scale = len(layer.slora_A[_NAME]), layer.scale[_NAME]
    else:
        rank, scale = layer.r[_NAME], layer.scaling[_NAME]
    primed = prime_factors(update.index, update.values, update.shape, rank=rank, scale=scale)
    if isinstance(layer, SloraLinear):
        layer.start_from(_NAME, update.values, primed.a, primed.b)
        return primed
    live = len(primed.a)
    with torch.no_grad():
        layer.lora_A[_NAME].weight[:live] = primed.a
        layer.lora_B[_NAME].weight[:, :live] = primed.b
    return primed
