"""SLoRA: single entries learn first, then LoRA begins with what they learnt (arXiv 2308.06522)."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor

from gossamer.methods.common.method import Kind, MethodContext, Stage
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.lora import lora_config
from gossamer.methods.settings import LoraSettings
from gossamer.methods.slora.config import SloraConfig
from gossamer.methods.slora.layer import SloraLinear
from gossamer.methods.slora.model import SloraModel
from gossamer.methods.slora.prime import Primed, prime_factors
from gossamer.methods.slora.settings import SloraSettings, Split

_NAME = "default"


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
    """Configure stage 1, or stage 2 with the residual kept if `rank` is given.

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
    """Return what stage 1 has learnt so far, by module path in the base model."""
    assert isinstance(model.base_model, SloraModel)
    return {
        path: Update(layer.index(_NAME), layer.slora_values[_NAME].detach(), layer.shape)
        for path, layer in model.base_model.model.named_modules()
        if isinstance(layer, SloraLinear)
    }


def enter_low_rank(
    model: PeftModel,
    settings: LoraSettings,
    *,
    density: float,
    seed: int,
    keep_residual: bool,
    split: Split = "lora",
) -> tuple[PeftModel, dict[str, float]]:
    """Make stage 2's model of stage 1's; also returns the energy kept, by module path.

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
            retained[path] = _prime(layers[path], update, split).retained
    return primed_model, retained


def _prime(layer: Any, update: Update, split: Split) -> Primed:
    if isinstance(layer, SloraLinear):
        rank, scale = len(layer.slora_A[_NAME]), layer.scale[_NAME]
    else:
        rank, scale = layer.r[_NAME], layer.scaling[_NAME]
    primed = prime_factors(
        update.index, update.values, update.shape, rank=rank, scale=scale, split=split
    )
    if isinstance(layer, SloraLinear):
        layer.start_from(_NAME, update.values, primed.a, primed.b)
        return primed
    live = len(primed.a)
    with torch.no_grad():
        layer.lora_A[_NAME].weight[:live] = primed.a
        layer.lora_B[_NAME].weight[:, :live] = primed.b
    return primed


SPARSE, LOW_RANK = "sparse", "low-rank"
SPARSE_RATE_FACTOR = 5.0
"""The peak rate of the sparse stage, as a multiple of the run's."""


class Slora(PeftMethod[SloraSettings]):
    """Stage 1: W + D, only the entries of D under a fixed random mask learn. Stage 2: LoRA with
    s B A = the best approximation of D of LoRA's rank, W untouched. This is the SLoRA of federated
    learning (Babakniya et al.); `sparse_lora` is another method, S-LoRA (arXiv 2311.03285) a way of
    serving, and SparseLoRA (arXiv 2506.16500) a way of training faster.

    A random mask of 1 % is nearly noise of full rank: LoRA of rank 16 begins with a small part of
    what stage 1 learnt, which the run reports as retained energy.
    """

    name = "slora"
    kind: Kind = "low-rank"
    settings_type = SloraSettings
    size_setting = "rank"

    def __init__(self, settings: SloraSettings) -> None:
        super().__init__(settings)
        self._retained: dict[str, float] = {}
        if settings.keep_residual:
            self.kind = "other"
            self.tuner_module = "gossamer.methods.slora.model"

    def stages(self, context: MethodContext) -> list[Stage]:
        total = context.total_steps
        first = min(round(total * self.settings.sparse_share), total - 1)
        if first < 1:
            return [Stage(name=LOW_RANK, steps=total)]
        rate = self.settings.sparse_learning_rate
        return [
            Stage(name=SPARSE, steps=first, learning_rate=rate, rate_factor=SPARSE_RATE_FACTOR),
            Stage(name=LOW_RANK, steps=total - first),
        ]

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        """The configuration of the first stage; without a sparse one, that of plain LoRA."""
        if len(self.stages(context)) == 1:
            return lora_config(model, self.settings)
        return sparse_config(model, self.settings, density=self.settings.density, seed=context.seed)

    def enter_stage(self, model: Any, index: int, context: MethodContext) -> Any:
        model, self._retained = enter_low_rank(
            model,
            self.settings,
            density=self.settings.density,
            seed=context.seed,
            keep_residual=self.settings.keep_residual,
            split=self.settings.factor_split,
        )
        return model

    def stage_report(self, index: int) -> dict[str, Any]:
        if index == 0 or not self._retained:
            return {}
        mean = sum(self._retained.values()) / len(self._retained)
        return {"retained_energy": mean, "retained_energy_by_matrix": self._retained}
