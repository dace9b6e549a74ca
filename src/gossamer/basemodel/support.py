"""Says which base models can be tuned or served, and which number format suits a device."""

import platform
from typing import TYPE_CHECKING, Any

from gossamer.basemodel.pruned import FAMILIES
from gossamer.basemodel.quantize import check_served
from gossamer.errors import UnsupportedModelError

# Their frequencies depend on the longest sequence of a batch, so that neighbours in a batch would
# change each other's answers.
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")


def check_supported(config: Any, *, for_serving: bool) -> None:
    """Check that a transformers config is of a supported family.

    Any causal language model may be tuned. One is served if what is computed of it here equals what
    transformers computes, which is found out when it is loaded; refused here is what can be told
    from its config.

    Raises:
        UnsupportedModelError: names the architecture (or the feature) and what is supported.
    """
    _check_causal(config, getattr(config, "model_type", "unknown"))
    if for_serving:
        _check_text_alone(config)
        check_served(config)
        _check_positions(config)


def _check_causal(config: Any, family: str) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(
            f"'{family}' is not a causal language model; tuning and serving need one, such as "
            f"{', '.join(FAMILIES)}"
        )


def _check_text_alone(config: Any) -> None:
    if config.get_text_config() is not config:
        raise UnsupportedModelError(
            f"models of architecture '{config.model_type}' read more than text, and only models of "
            "text alone are served; `gossamer model text MODEL --output DIR` writes the text "
            "part as one"
        )


def _check_positions(config: Any) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    # Where kinds of layers have positions of their own, there is one description for each.
    each = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    for found in (str(part.get("rope_type", "default")) for part in each):
        if found in _BATCH_DEPENDENT_ROPE:
            raise UnsupportedModelError(
                f"models with '{found}' rotary embeddings cannot be served: their result depends "
                "on the other requests of a batch"
            )
    # Both begin thousands of tokens into a text, where no comparison of short texts sees them.
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        size = getattr(config, "attention_chunk_size", None)
        raise UnsupportedModelError(
            f"models with chunked attention (attention_chunk_size={size}) cannot be served: here "
            "each token sees all before it, or a sliding window"
        )
    if getattr(config, "attn_temperature_tuning", False) and not all(
        getattr(config, "no_rope_layers", None) or [0]
    ):
        raise UnsupportedModelError(
            "models with attn_temperature_tuning cannot be served: they scale queries by their "
            "place in a step, which here is none in their text"
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
