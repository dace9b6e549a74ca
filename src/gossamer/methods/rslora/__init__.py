"""rsLoRA: LoRA with a scale that keeps high ranks learning (arXiv 2312.03732)."""

from typing import Any

from gossamer.methods.lora.config import LoraSettings, PositiveFloat
from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class RsLoraSettings(LoraSettings):
    """Settings of `rslora`."""

    alpha: PositiveFloat = 8.0
    """Strength: the update is scaled by alpha / sqrt(rank). The default gives at rank 16 the same
    scale, 2, as the defaults of `lora`."""


@register
class RsLora(PeftMethod[RsLoraSettings]):
    """y = W x + (alpha / sqrt(rank)) B A x: activations and gradients keep their size at any rank.

    Learning rate: that of LoRA, since at the default rank and alpha the two are the same.
    """

    name = "rslora"
    summary = "LoRA scaled by alpha / sqrt(rank); for ranks of 64 and more"
    kind = "low-rank"
    settings_type = RsLoraSettings
    learning_rate = 2e-4
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.lora.apply import lora_config

        return lora_config(model, self.settings, use_rslora=True)
