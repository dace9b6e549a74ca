"""LoRA: a frozen weight plus a trainable product of two thin matrices (arXiv 2106.09685)."""

from typing import Any

from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


@register
class Lora(PeftMethod[LoraSettings]):
    """y = W x + (alpha / rank) B A x, B starting at zero, W frozen.

    Learning rate: 2e-4 is what the LoRA paper uses for GPT-3 and QLoRA for models up to 13 B
    parameters; smaller models bear more (4e-4 and 5e-4 for RoBERTa-base in the LoRA paper).
    """

    name = "lora"
    summary = "low-rank adapter on linear layers; small, fast, the usual choice"
    kind = "low-rank"
    settings_type = LoraSettings
    learning_rate = 2e-4
    size_setting = "rank"

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.lora.apply import lora_config

        return lora_config(model, self.settings)
