"""Settings of LaMDA and LaMDA++."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt


class LamdaSettings(MethodSettings):
    """Settings of `lamda`."""

    default_learning_rate = DefaultRate.flat(
        3e-4, source="sweep of lamda on SmolLM2-135M, and the authors' scripts at rank 64"
    )

    rank: PositiveInt = 32
    """Number of singular vectors; the square matrix between them has as many rows and columns."""

    alpha: PositiveFloat = 32.0
    """Strength: the change is scaled by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training, against overfitting."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names such as
    [q_proj, v_proj]. The output head is never one of them."""

    freeze_share: Annotated[float, Field(gt=0, le=1)] | None = 0.3
    """Share of the steps over which the columns of B freeze one after the other; `null`: B learns
    to the end."""

    svd: Literal["fast", "exact"] = "fast"
    """How singular vectors are found: `fast` is randomised, `exact` takes minutes for large
    models."""


class LamdaPpSettings(LamdaSettings):
    """Settings of `lamda_pp`."""

    rank: PositiveInt = 32
    """Mean rank: by its spectrum each layer gets from half to twice as much; the sum is fixed."""
