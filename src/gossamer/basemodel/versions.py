"""What transformers calls by one name in some of its versions and by another in others.

5.23 renamed gradient checkpointing to activation checkpointing and warns of the old names; before
it there are only those.
"""

from typing import Any


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
