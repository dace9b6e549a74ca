"""Settings of SLoRA."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import PositiveFloat
from gossamer.methods.settings import LoraSettings

Split = Literal["lora", "balanced"]


class SloraSettings(LoraSettings):
    """Settings of `slora`."""

    default_learning_rate = DefaultRate(
        1e-3, 2e-4, source="sweep on SmolLM2-135M; that of lora, which the second stage is"
    )

    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the entries of each matrix that learn in the sparse stage, drawn at random."""

    sparse_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps that the sparse stage takes; 0: none, which is plain `lora`."""

    sparse_learning_rate: PositiveFloat | None = None
    """Peak learning rate of the sparse stage; unset: five times that of the run, since single
    entries bear and need more than factors whose product is the change."""

    factor_split: Split = "lora"
    """How the sparse update is shared out between the factors. lora: the rows of A are as long as
    where LoRA begins, so a step of B moves the weights as far as there. balanced: both factors have
    the same norm; the update is small, so both are, and learn many times slower."""

    keep_residual: bool = False
    """Whether what the low-rank factors cannot hold of the sparse update is kept beside them. The
    result is then no LoRA adapter: it loads with PEFT and merges, but is not served unmerged."""

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        for name in ("rank_pattern", "alpha_pattern"):
            if self.keep_residual and getattr(self, name):
                raise ValueError(f"{name} cannot be combined with keep_residual; leave one out")
        return self
