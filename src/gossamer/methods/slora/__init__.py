"""SLoRA: sparse fine-tuning first, then LoRA that begins with what it learnt (arXiv 2308.06522)."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from gossamer.methods.lora.config import LoraSettings, PositiveFloat
from gossamer.methods.method import MethodContext, Stage
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register

SPARSE, LOW_RANK = "sparse", "low-rank"


class SloraSettings(LoraSettings):
    """Settings of `slora`."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the entries of each matrix that learn in the sparse stage, drawn at random."""

    sparse_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps that the sparse stage takes; 0: none, which is plain `lora`."""

    sparse_learning_rate: PositiveFloat | None = None
    """Peak learning rate of the sparse stage; unset: that of the run."""

    keep_residual: bool = False
    """Whether what the low-rank factors cannot hold of the sparse update is kept beside them. The
    result is then no LoRA adapter: it loads with PEFT and merges, but is not served unmerged."""

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        for name in ("rank_pattern", "alpha_pattern"):
            if self.keep_residual and getattr(self, name):
                raise ValueError(f"{name} cannot be combined with keep_residual; leave one out")
        return self


@register
class Slora(PeftMethod[SloraSettings]):
    """Stage 1: W + D, only the entries of D under a fixed random mask learn. Stage 2: LoRA with
    s B A = the best approximation of D of LoRA's rank, W untouched. This is the SLoRA of federated
    learning (Babakniya et al.); `sparse_lora` is another method, S-LoRA (arXiv 2311.03285) a way of
    serving, and SparseLoRA (arXiv 2506.16500) a way of training faster.

    A random mask of 1 % is nearly noise of full rank: LoRA of rank 16 begins with a small part of
    what stage 1 learnt, which the run reports as retained energy.

    Learning rate: 2e-4, that of LoRA, which the second stage is; the paper's is not given in what
    could be read of it.
    """

    name = "slora"
    summary = "LoRA that begins with what a short sparse fine-tuning learnt"
    kind = "low-rank"
    settings_type = SloraSettings
    learning_rate = 2e-4
    size_setting = "rank"

    def __init__(self, settings: SloraSettings) -> None:
        super().__init__(settings)
        self._retained: dict[str, float] = {}
        if settings.keep_residual:
            self.kind = "other"  # type: ignore[assignment, misc]
            self.tuner_module = "gossamer.methods.slora.model"  # type: ignore[misc]

    def stages(self, context: MethodContext) -> list[Stage]:
        total = context.total_steps
        first = min(round(total * self.settings.sparse_share), total - 1)
        if first < 1:
            return [Stage(name=LOW_RANK, steps=total)]
        rate = self.settings.sparse_learning_rate
        return [
            Stage(name=SPARSE, steps=first, learning_rate=rate),
            Stage(name=LOW_RANK, steps=total - first),
        ]

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        """Of the first stage; where there is no sparse one, that of plain LoRA."""
        from gossamer.methods.lora.apply import lora_config
        from gossamer.methods.slora.apply import sparse_config

        if len(self.stages(context)) == 1:
            return lora_config(model, self.settings)
        return sparse_config(model, self.settings, density=self.settings.density, seed=context.seed)

    def enter_stage(self, model: Any, index: int, context: MethodContext) -> Any:
        from gossamer.methods.slora.apply import enter_low_rank

        model, self._retained = enter_low_rank(
            model,
            self.settings,
            density=self.settings.density,
            seed=context.seed,
            keep_residual=self.settings.keep_residual,
        )
        return model

    def stage_report(self, index: int) -> dict[str, Any]:
        if index == 0 or not self._retained:
            return {}
        mean = sum(self._retained.values()) / len(self._retained)
        return {"retained_energy": mean, "retained_energy_by_matrix": self._retained}
