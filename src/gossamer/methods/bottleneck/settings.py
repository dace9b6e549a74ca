"""Settings of bottleneck adapters."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.settings import MethodSettings, PositiveFloat, PositiveInt


class BottleneckSettings(MethodSettings):
    """What both kinds of bottleneck adapters have in common."""

    default_learning_rate = DefaultRate(
        3e-3,
        3e-4,
        source="sweep on SmolLM2-135M; LLM-Adapters for LLaMA-7B",
    )

    width: PositiveInt = 64
    """Width of the bottleneck."""

    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """The nonlinearity inside."""

    scale: PositiveFloat = 1.0
    """Factor of the adapter's output."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""


class HoulsbySettings(BottleneckSettings):
    """Settings of `houlsby`."""

    target_modules: str | list[str] = Field(default=["o_proj", "down_proj"])
    """Layers whose output is followed by an adapter: the last ones of attention and MLP."""


class PfeifferSettings(BottleneckSettings):
    """Settings of `pfeiffer`."""

    target_modules: str | list[str] = Field(default=["down_proj"])
    """Layers whose output is followed by an adapter: the last one of the MLP."""
