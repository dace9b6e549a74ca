"""What transformers calls by one name in some of its versions and by another in others.

5.23 renamed gradient checkpointing to activation checkpointing and warns of the old names; before
it there are only those. 5.24 renamed the argument and output `past_key_values` to `cache`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def cache_as_peft_names_it(model: Any) -> Iterator[None]:
    """Let a PEFT model generate with a soft prompt or prefix.

    PEFT 0.21 puts the prompt in front where it finds no `past_key_values`, so with the new name it
    does for every token, and the answer is another one.
    """
    prepare = getattr(model, "base_model_prepare_inputs_for_generation", None)
    if prepare is None:
        yield
        return

    def prepare_named(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(*args, **kwargs)
        if "cache" in inputs:
            inputs["past_key_values"] = inputs.pop("cache")
        return inputs

    model.base_model_prepare_inputs_for_generation = prepare_named
    try:
        yield
    finally:
        model.base_model_prepare_inputs_for_generation = prepare
