"""IA3: keys, values and the MLP's inner activations rescaled, nothing else (arXiv 2205.05638)."""

from typing import Annotated, Any

from pydantic import Field

from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class Ia3Settings(MethodSettings):
    """Settings of `ia3`."""

    target_modules: str | list[str] = Field(default=["k_proj", "v_proj", "down_proj"])
    """Layers to rescale: the paper's keys, values and inner activations of the MLP; or all-linear,
    attention, mlp, or another list."""

    feedforward_modules: list[str] = Field(default=["down_proj"])
    """Those of target_modules whose input is rescaled rather than their output."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""


@register
class Ia3(PeftMethod[Ia3Settings]):
    """y = l * (W x), and y = W (l * x) for feed-forward layers; the vectors l start at one.

    Learning rate: 3e-3, a common choice for IA3, whose factors start at one; ours.
    """

    name = "ia3"
    summary = "rescales keys, values and MLP activations; very few weights"
    kind = "gain"
    settings_type = Ia3Settings
    learning_rate = 3e-3

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.ia3.apply import ia3_config

        settings = self.settings
        return ia3_config(
            model, settings.target_modules, settings.feedforward_modules, settings.layers
        )
