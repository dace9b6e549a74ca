"""Which base models can be tuned and which can be served."""

from typing import Any

from gossamer.errors import UnsupportedModelError

SERVED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Decoders with separate linear layers and full causal attention; tested one by one."""

# Their frequencies depend on the longest sequence of a batch, so that neighbours in a batch would
# change each other's answers.
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")


def check_supported(config: Any, *, for_serving: bool) -> None:
    """Check a transformers config.

    Any causal language model may be tuned; serving knows `SERVED_FAMILIES`.

    Raises:
        UnsupportedModelError: names the architecture (or the feature) and what is supported.
    """
    family = getattr(config, "model_type", "unknown")
    if not for_serving:
        _check_causal(config, family)
        return
    if family not in SERVED_FAMILIES:
        raise UnsupportedModelError(
            f"models of architecture '{family}' cannot be served; supported: "
            f"{', '.join(SERVED_FAMILIES)}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            "quantised base models cannot be served; give the unquantised model"
        )
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
