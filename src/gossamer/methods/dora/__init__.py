"""DoRA: weights split into magnitude and direction; LoRA turns the direction (arXiv 2402.09353)."""

from typing import Any

from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class DoraSettings(LoraSettings):
    """Settings of `dora`."""


@register
class Dora(PeftMethod[DoraSettings]):
    """W' = m * V / |V| with V = W + (alpha / rank) B A, row by row; m, A and B learn.

    Learning rate: 2e-4 is the paper's for LLaMA-7B and LLaMA2-7B at rank 16; alpha = 2 rank too.
    """

    name = "dora"
    summary = "LoRA plus a trainable magnitude per output; often better at small ranks, slower"
    kind = "gain"
    settings_type = DoraSettings
    learning_rate = 2e-4
    size_setting = "rank"
    # The base's product and the adapter's, both of which are multiplied by the gain.
    outputs_kept = 2.0

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.lora.apply import lora_config

        return lora_config(model, self.settings, use_dora=True)
