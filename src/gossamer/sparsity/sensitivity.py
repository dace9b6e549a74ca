"""How much each layer minds losing channels: the loss with one layer sparse, all others dense."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import DataError
from gossamer.sparsity.apply import sparsify
from gossamer.sparsity.plan import Shares, SparsityPlan

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Increase:
    """What one choice for one layer costs."""

    layer: int
    group: str
    """ "mlp" or "attention" (queries, keys, values and the output projection together)."""
    share: float
    """Of channels dropped."""
    loss: float
    """Increase of the mean loss per learnt token, in nats; may be below zero by chance."""

    @property
    def shares(self) -> Shares:
        if self.group == "mlp":
            return Shares(mlp=self.share)
        return Shares(qk=self.share, vo=self.share)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The result of a sweep."""

    layers: int
    dense_loss: float
    increases: list[Increase]


def sweep(
    model: Any,
    batches: Sequence[Batch],
    *,
    mlp_shares: Sequence[float],
    attention_shares: Sequence[float],
    options: SparsityPlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Measure every layer, group and share, one at a time, on `batches`.

    `model` is the base; batches hold `input_ids`, `attention_mask` and `labels` [batch, length].
    `options` gives token rule, criterion and rank; its own shares are not used. `progress` hears of
    each measurement. Raises `DataError` if no token of the batches has a label.
    """
    count = model.config.get_text_config().num_hidden_layers
    dense = mean_loss(model, batches)
    choices = [
        Increase(layer, group, share, 0.0)
        for layer in range(count)
        for group, shares in (("mlp", mlp_shares), ("attention", attention_shares))
        for share in shares
    ]
    found = []
    for done, choice in enumerate(choices):
        plan = plan_of([choice], options)
        loss = sparse_loss(model, batches, plan) - dense
        found.append(Increase(choice.layer, choice.group, choice.share, loss))
        progress(done + 1, len(choices))
    return Sensitivity(layers=count, dense_loss=dense, increases=found)


def plan_of(choices: Sequence[Increase], options: SparsityPlan) -> SparsityPlan:
    """The plan that makes `choices`, one per layer and group; the rest as in `options`."""
    shares: dict[str, dict[str, float]] = {"mlp": {}, "qk": {}, "vo": {}}
    for choice in sorted(choices, key=lambda choice: choice.layer):
        for group in ("mlp",) if choice.group == "mlp" else ("qk", "vo"):
            shares[group][str(choice.layer)] = choice.share
    return options.updated({**shares, "num_layers": None})


def sparse_loss(model: Any, batches: Sequence[Batch], plan: SparsityPlan) -> float:
    """Mean loss per learnt token under `plan`, from the first step on."""
    with sparsify(model, plan.updated({"start": 0})) as handle:
        handle.force = True
        return mean_loss(model, batches)


def mean_loss(model: Any, batches: Sequence[Batch]) -> float:
    """Mean loss per learnt token, in nats."""
    total, count = 0.0, 0
    with torch.no_grad(), _evaluating(model):
        for batch in batches:
            learnt = int((batch["labels"][:, 1:] != -100).sum())
            if learnt:
                total += float(model(**batch, use_cache=False).loss) * learnt
                count += learnt
    if count == 0:
        raise DataError("no token of the rows is learnt; look at train_on and max_length")
    return total / count


@contextmanager
def _evaluating(model: Any) -> Any:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
