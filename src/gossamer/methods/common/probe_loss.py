"""The loss of a batch whose gradients choose what learns, at the cost of the labelled positions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gossamer.basemodel.versions import disable_checkpointing, enable_checkpointing
from gossamer.methods.common.ranks import sum_over_ranks, world

IGNORED = -100
"""The label of a position from whose prediction nothing is learnt, as transformers has it."""


def probe_loss(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """The mean loss over the labelled tokens of `batch`, as the model itself would compute it.

    Where several processes train, the sum over them of what this returns is the mean loss over the
    tokens of all their batches, so that a process with more tokens weighs more.

    The output head multiplies only positions whose next token has a label in some row. Of a
    vocabulary of 128,000 words each position costs half a MiB in float32, several times over, and
    of most rows only the end is learnt. `batch`: input_ids and labels [rows, tokens], and what else
    the model's forward takes.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    following = batch["labels"][:, 1:]
    positions = (following != IGNORED).any(0).nonzero().flatten()
    out = model(**{"use_cache": False, **inputs}, logits_to_keep=positions)
    logits = out.logits.float().flatten(0, 1)
    labels = following[:, positions].flatten().to(logits.device)
    if world() == 1:
        return cross_entropy(logits, labels, ignore_index=IGNORED)
    (total,) = sum_over_ranks([float((labels != IGNORED).sum())])
    return cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / max(total, 1.0)


def backward(model: Any, batch: Mapping[str, Any]) -> None:
    """Go forward and backward through `model` with that loss."""
    with torch.enable_grad():
        probe_loss(model, batch).backward()  # type: ignore[no-untyped-call]


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Keep as little between forward and backward as the run will, if that is wanted."""
    if not wanted:
        yield
        return
    was_training = model.training
    # Checkpoints are only made in training mode.
    enable_checkpointing(model)
    model.train()
    try:
        yield
    finally:
        disable_checkpointing(model)
        model.train(was_training)
