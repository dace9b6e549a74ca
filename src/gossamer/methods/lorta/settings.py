"""Settings of LoRTA."""

from typing import Annotated

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt


class LortaSettings(MethodSettings):
    """Settings of `lorta`."""

    default_learning_rate = DefaultRate(
        3e-2,
        1e-2,
        source="sweep on SmolLM2-135M; the authors' lower end for RoBERTa-large on GLUE",
    )

    rank: PositiveInt = 64
    """Rank of the tensor, and the most rank of the change of any one matrix."""

    alpha: PositiveFloat = 16.0
    """Strength: the change is scaled by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training, against overfitting."""

    target_modules: str | list[str] = "attention"
    """Matrices that the tensor spans: attention, or a list out of q_proj, k_proj, v_proj and
    o_proj."""

    init_scale: Annotated[float, Field(ge=0)] = 0.0
    """Larger values start the factors of heads, matrices and layers smaller: they are uniform up
    to sqrt(6 / ((1 + 5 init_scale²) rank))."""
