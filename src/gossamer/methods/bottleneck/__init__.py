"""Bottleneck adapters: small networks behind the sublayers, as of Houlsby and of Pfeiffer."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gossamer.methods.lora.config import PositiveFloat, PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class BottleneckSettings(MethodSettings):
    """What both kinds of bottleneck adapters have in common."""

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


class _Bottleneck(PeftMethod[Any]):
    kind = "other"
    tuner_module = "gossamer.methods.bottleneck.tuner"
    size_setting = "width"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.bottleneck.tuner import bottleneck_config

        return bottleneck_config(model, self.settings.model_dump())


@register
class Houlsby(_Bottleneck):
    """h + scale * (U f(D h + b1) + b2) behind attention and MLP, before each is added (1902.00751).

    U and b2 start at zero, so the start is the base. The norms, which the paper trains too, stay as
    they are. Not linear, so it cannot be merged. Learning rate: 3e-4, a common choice for adapters;
    ours.
    """

    name = "houlsby"
    summary = "small networks behind attention and MLP; cannot be merged, slows inference"
    settings_type = HoulsbySettings
    learning_rate = 3e-4


@register
class Pfeiffer(_Bottleneck):
    """h + scale * (U f(D h + b1) + b2) behind the MLP only (arXiv 2005.00247).

    Half the weights of `houlsby`, and about as good in the paper. Not linear, so it cannot be
    merged. Learning rate: 1e-4, a common choice for adapters; ours.
    """

    name = "pfeiffer"
    summary = "small networks behind the MLP only; cannot be merged, slows inference"
    settings_type = PfeifferSettings
    learning_rate = 1e-4
