"""QLoRA: LoRA on a base model held in 4 bits (arXiv 2305.14314)."""

from typing import Any

import torch
from peft import prepare_model_for_kbit_training

from gossamer.basemodel.quantize import nf4_config
from gossamer.errors import MissingExtraError, SettingError
from gossamer.methods.common.method import MethodContext
from gossamer.methods.common.peft_method import PeftMethod
from gossamer.methods.lora import lora_config
from gossamer.methods.settings import QLoraSettings

SUPPORTED_DEVICES = ("cpu", "cuda", "xpu")


def check_device(device: str) -> None:
    """Raise `SettingError` or `MissingExtraError` where bitsandbytes has no 4-bit kernels."""
    kind = torch.device(device).type
    if kind not in SUPPORTED_DEVICES:
        raise SettingError(
            f"method 'qlora' cannot run on '{device}': bitsandbytes has 4-bit kernels for "
            f"{', '.join(SUPPORTED_DEVICES)} only; use method 'lora'"
        )
    from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary, lib

    if isinstance(lib, ErrorHandlerMockBNBNativeLibrary):
        raise MissingExtraError(
            "method 'qlora': the installed bitsandbytes has no compiled library for this machine; "
            "pip install --upgrade bitsandbytes, or use method 'lora'"
        )


def freeze_quantized(model: Any) -> Any:
    """Freeze all weights; what is not quantised (norms, embeddings) becomes float32."""
    # Gradient checkpointing is the trainer's to switch on, for all methods alike.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


class QLora(PeftMethod[QLoraSettings]):
    """LoRA over NF4 weights, which are dequantised for each product; only A and B learn.

    Runs through bitsandbytes on NVIDIA, AMD and Intel GPUs, and on CPUs. It pays where the base
    weights are most of the memory: on SmolLM2-135M and a CPU a step was a tenth slower than that of
    `lora` and took as much memory. The adapter is a LoRA adapter for the base model; it was trained
    on that model's 4-bit rounding.
    """

    name = "qlora"
    kind = "low-rank"
    settings_type = QLoraSettings
    size_setting = "rank"
    extra = "qlora"
    extra_modules = ("bitsandbytes",)

    def check(self, context: MethodContext) -> None:
        super().check(context)

        check_device(context.device)

    def quantization(self, context: MethodContext) -> Any:
        return nf4_config(context.dtype, double_quant=self.settings.double_quant)

    def prepare(self, model: Any, context: MethodContext) -> Any:
        return super().prepare(freeze_quantized(model), context)

    def peft_config(self, model: Any, context: MethodContext) -> Any:
        return lora_config(model, self.settings)
