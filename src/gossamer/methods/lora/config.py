"""Settings of LoRA and of its relatives."""

from typing import Annotated

from pydantic import Field

from gossamer.methods.method import MethodSettings

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LoraSettings(MethodSettings):
    """Settings of `lora`."""

    rank: PositiveInt = 16
    """Width of the two thin matrices; more learns more and costs more."""

    alpha: PositiveFloat = 32.0
    """Strength: the update is scaled by alpha / rank. Kept fixed when the rank changes, the best
    learning rate stays about the same."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero at random while training, against overfitting."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names such as
    [q_proj, v_proj]. The output head is never one of them."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""

    rank_pattern: dict[str, PositiveInt] = Field(default={})
    """Other ranks for some layers, by layer name or regular expression: {down_proj: 4}."""

    alpha_pattern: dict[str, PositiveFloat] = Field(default={})
    """Other alphas for some layers, by layer name or regular expression."""
