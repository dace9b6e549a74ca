"""QLoRA: LoRA on a base model held in 4 bits (arXiv 2305.14314)."""

from typing import Any

from gossamer.methods.lora.config import LoraSettings
from gossamer.methods.method import MethodContext
from gossamer.methods.peft_method import PeftMethod
from gossamer.methods.registry import register


class QLoraSettings(LoraSettings):
    """Settings of `qlora`."""

    double_quant: bool = True
    """Whether the scales of the 4-bit blocks are quantised too; saves 0.37 bits per weight."""


@register
class QLora(PeftMethod[QLoraSettings]):
    """LoRA over NF4 weights, which are dequantised for each product; only A and B learn.

    Runs through bitsandbytes on NVIDIA, AMD and Intel GPUs, and on CPUs. It pays where the base
    weights are most of the memory: on SmolLM2-135M and a CPU a step was a tenth slower than that of
    `lora` and took as much memory. The adapter is a LoRA adapter for the base model; it was trained
    on that model's 4-bit rounding. Learning rate: 2e-4 is the paper's for models up to 13 B
    parameters (1e-4 above).
    """

    name = "qlora"
    summary = "LoRA on a 4-bit base; saves memory on large models"
    kind = "low-rank"
    settings_type = QLoraSettings
    learning_rate = 2e-4
    size_setting = "rank"
    extra = "qlora"
    extra_modules = ("bitsandbytes",)

    def check(self, context: MethodContext) -> None:
        super().check(context)
        from gossamer.methods.qlora.apply import check_device

        check_device(context.device)

    def quantization(self, context: MethodContext) -> Any:
        from gossamer.methods.qlora.apply import nf4_config

        return nf4_config(context.dtype, double_quant=self.settings.double_quant)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.qlora.apply import freeze_quantized

        return super().prepare(freeze_quantized(model), context)

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        from gossamer.methods.lora.apply import lora_config

        return lora_config(model, self.settings)
