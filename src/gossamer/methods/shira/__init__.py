"""SHiRA: a fixed sparse set of the weights learns (arXiv 2406.13175)."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gossamer.methods.lora.config import PositiveInt
from gossamer.methods.method import MethodContext, MethodSettings
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class ShiraSettings(MethodSettings):
    """Settings of `shira`."""

    rank: PositiveInt = 16
    """Size: a layer gets as many entries as LoRA of this rank would have weights."""

    mask: Literal["random", "magnitude", "gradient", "snip"] = "random"
    """Which entries learn: random ones, those of the largest |weight|, or of the largest |gradient|
    or |weight * gradient| in a look at the first batches."""

    probe_steps: PositiveInt = 8
    """Batches to look at for the masks `gradient` and `snip`."""

    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: all-linear, attention, mlp, or a list of layer names."""

    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the decoder layers to adapt, counted from 0; unset: all."""


@register
class Shira(PeftMethod[ShiraSettings]):
    """W' = W + M * D, where the mask M stays as it was chosen and D starts at zero.

    High rank and few entries: adapters can be swapped by changing 1 to 2 % of the weights. Each
    forward pass builds the changed weight, which costs time and a dense gradient. Learning rate:
    2e-4, LoRA's, whose number of weights it has; the paper's own rate is not known to us.
    """

    name = "shira"
    summary = "trains a fixed sparse set of the weights' entries; high rank, easy to swap"
    kind = "sparse"
    settings_type = ShiraSettings
    learning_rate = 2e-4
    size_setting = "rank"
    dense_because = "it multiplies by weights that it has changed"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.shira.apply import shira_config

        return shira_config(model, self.settings.model_dump(), context)
