"""DPO's reference: how likely the model at the start of the run finds both answers of a pair.

It is computed once, before the first step. So every method has one, with or without an adapter
that can be switched off, no second model is held, and the first loss is log 2 whatever the start
is: the base, one that a method has changed, or an adapter that goes on. A resumed run makes the
same start and computes it again.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from gossamer.methods.common.ranks import gather_over_ranks, rank, world
from gossamer.training.data import Example, PreferencePair
from gossamer.training.evaluation.predict import log_probabilities
from gossamer.training.outputs.listener import Listener
from gossamer.training.plan import RowOrder, RunPlan
from gossamer.training.prepare import Prepared


def with_reference(prepared: Prepared, model: Any, listener: Listener) -> Prepared:
    """`prepared` with the reference of all pairs that the run sees; `model` is as it starts."""
    settings, data = prepared.settings, prepared.data
    if settings.objective != "dpo":
        return prepared
    seen = _seen(prepared.plan, settings.seed)
    pairs = [data.train[number] for number in seen] + data.eval
    listener.note(
        f"computing how likely the starting model finds the answers of {len(pairs)} pairs"
    )
    found = _referenced(model, pairs, settings.dtype)
    train = list(data.train)
    for number, pair in zip(seen, found, strict=False):
        train[number] = pair
    data = replace(data, train=train, eval=found[len(seen) :])
    return replace(prepared, data=data)


def _seen(plan: RunPlan, seed: int) -> list[int]:
    """The numbers of the rows that the run sees."""
    if plan.num_samples >= plan.num_rows:
        return list(range(plan.num_rows))
    return sorted(set(RowOrder(plan, seed)))


def _referenced(model: Any, pairs: Iterable[Any], dtype: str) -> list[PreferencePair]:
    pairs = [pair for pair in pairs if isinstance(pair, PreferencePair)]
    sides: list[Example] = [side for pair in pairs for side in pair.sides]
    device = next(model.parameters()).device.type
    autocast = torch.autocast(device, dtype=torch.bfloat16) if dtype == "bfloat16" else None
    was_training = model.training
    model.eval()
    # Each process computes a share.
    own = sides[rank() :: world()]
    try:
        with autocast or nullcontext():
            found = [value for batch in log_probabilities(model, own) for value in batch]
    finally:
        model.train(was_training)
    sums = [0.0] * len(sides)
    for number, part in enumerate(gather_over_ranks(found)):
        sums[number :: world()] = part
    return [
        replace(pair, reference=(sums[2 * index], sums[2 * index + 1]))
        for index, pair in enumerate(pairs)
    ]
