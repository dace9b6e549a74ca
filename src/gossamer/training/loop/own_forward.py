"""The forward function of a base model, which trainers replace while they train.

TRL below 1.16 puts one there that computes losses in chunks and returns no logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def own_forward(model: Any) -> Any:
    """The forward function that was put on the base model itself; None: it has its class's."""
    return vars(_base(model)).get("forward")


def give_back_forward(model: Any, forward: Any) -> None:
    """Undo what a trainer did to the base model's forward, so that evaluation finds its own."""
    base = _base(model)
    vars(base).pop("forward", None)
    if forward is not None:
        base.forward = forward


@contextmanager
def without_trainer(model: Any, forward: Any) -> Iterator[None]:
    """Let the base model have `forward` inside, and the trainer's again behind."""
    trainers = own_forward(model)
    give_back_forward(model, forward)
    try:
        yield
    finally:
        give_back_forward(model, trainers)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
