"""Says which base models can be tuned or served, and which number format suits a device."""

import platform
from typing import TYPE_CHECKING, Any

from gossamer.basemodel.pruned import FAMILIES, family_of
from gossamer.basemodel.quantize import check_served
from gossamer.errors import UnsupportedModelError

SERVED_FAMILIES = FAMILIES
"""Decoders with separate linear layers and full causal attention; tested one by one."""

# Their frequencies depend on the longest sequence of a batch, so that neighbours in a batch would
# change each other's answers.
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")


def check_supported(config: Any, *, for_serving: bool) -> None:
    """Check that a transformers config is of a supported family.

    Any causal language model may be tuned; serving knows `SERVED_FAMILIES`.

    Raises:
        UnsupportedModelError: names the architecture (or the feature) and what is supported.
    """
    family = getattr(config, "model_type", "unknown")
    if not for_serving:
        _check_causal(config, family)
        return
    if family_of(family) not in SERVED_FAMILIES:
        raise UnsupportedModelError(
            f"models of architecture '{family}' cannot be served; supported: "
            f"{', '.join(SERVED_FAMILIES)}"
        )
    check_served(config)
    _check_attention(config)


def _check_causal(config: Any, family: str) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(
            f"'{family}' is not a causal language model; tuning and serving need one, such as "
            f"{', '.join(SERVED_FAMILIES)}"
        )


def _check_attention(config: Any) -> None:
    context = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window and window < context:
        raise UnsupportedModelError(
            f"models with sliding-window attention (sliding_window={window}, context {context}) "
            f"cannot be served; set max_position_embeddings to {window} in config.json to serve "
            "it with a shorter context"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in _BATCH_DEPENDENT_ROPE:
        raise UnsupportedModelError(
            f"models with '{rope}' rotary embeddings cannot be served: their result depends on "
            "the other requests of a batch"
        )


if TYPE_CHECKING:
    import torch


def default_dtype(device: "str | torch.device" = "cpu") -> "torch.dtype":
    """The number format for a device: bf16 where it computes in it, else fp32.

    A CPU without bf16 units emulates them: a training step was measured 25 to 40 times slower
    than in fp32, although torch accepts the request without complaint.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if kind == "cpu" and cpu_has_bf16_units():
        return torch.bfloat16
    return torch.float32


def cpu_has_bf16_units() -> bool:
    """Whether this processor multiplies bf16 matrices natively (AVX512-BF16, AMX or Arm BF16)."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # On x86 the library also says yes to plain AVX-512, where it only emulates.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
