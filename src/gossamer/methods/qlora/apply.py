"""A base model in 4 bits through bitsandbytes."""

from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig

from gossamer.errors import MissingExtraError, SettingError

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


def nf4_config(dtype: str, *, double_quant: bool) -> BitsAndBytesConfig:
    """Linear layers in NF4, blocks of 64 weights, products computed in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def freeze_quantized(model: Any) -> Any:
    """All weights frozen, what is not quantised (norms, embeddings) in float32."""
    # Gradient checkpointing is the trainer's to switch on, for all methods alike.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
