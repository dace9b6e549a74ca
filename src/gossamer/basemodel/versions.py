"""What transformers calls by one name in some of its versions and by another in others.

5.23 renamed gradient checkpointing to activation checkpointing and warns of the old names; before
it there are only those. 5.24 renamed the argument and output `past_key_values` to `cache`.
"""

from collections.abc import Mapping
from typing import Any

CACHE_NAMES = ("cache", "past_key_values")
"""What the keys and values of earlier tokens are called, in arguments and outputs of models."""


def checkpointing_argument() -> str:
    """Name the argument of `TrainingArguments` that turns activation checkpointing on."""
    from transformers import TrainingArguments

    new = "activation_checkpointing"
    return new if hasattr(TrainingArguments, new) else "gradient_checkpointing"


def enable_checkpointing(model: Any, options: dict[str, Any] | None = None) -> None:
    """Let `model` keep only the inputs of its blocks for the backward pass."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)(options)


def disable_checkpointing(model: Any) -> None:
    """Let `model` keep everything again."""
    disable = getattr(model, "activation_checkpointing_disable", None)
    (disable or model.gradient_checkpointing_disable)()


def cache_in(values: Mapping[str, Any]) -> Any:
    """Return the cache among the arguments or outputs of a model or a block, if there is one."""
    found = (values.get(name) for name in CACHE_NAMES)
    return next((cache for cache in found if cache is not None), None)


def uncached_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a block that is to neither read nor fill a cache."""
    kept = {name: value for name, value in arguments.items() if name not in CACHE_NAMES}
    return {**kept, "use_cache": False}
