"""How much each layer minds losing channels: the loss with one layer sparse, all others dense."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from gossamer.errors import DataError
from gossamer.sparsity.apply import sparsify
from gossamer.sparsity.plan import Shares, SparsityPlan
from gossamer.sparsity.predictor import Factors
from gossamer.sparsity.suffix import Batch, Halfway, total_loss


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
    with evaluating(model), torch.no_grad():
        halfway = [Halfway(model, batch) for batch in batches]
        if not any(part.learnt for part in halfway):
            raise DataError("no token of the rows is learnt; look at train_on and max_length")
        dense = total_loss(halfway)
        shares = [("mlp", share) for share in mlp_shares]
        shares += [("attention", share) for share in attention_shares]
        count = model.config.get_text_config().num_hidden_layers
        guesses: dict[str, Factors] = {}
        found = []
        for layer in range(count):
            for group, share in shares:
                choice = Increase(layer, group, share, 0.0)
                loss = _loss_under(model, halfway, plan_of([choice], options), guesses)
                found.append(replace(choice, loss=loss - dense))
                progress(len(found), count * len(shares))
            for part in halfway:
                part.advance()
    return Sensitivity(layers=count, dense_loss=dense, increases=found)


def plan_of(choices: Sequence[Increase], options: SparsityPlan) -> SparsityPlan:
    """The plan that makes `choices`, one per layer and group; the rest as in `options`."""
    shares: dict[str, dict[str, float]] = {"mlp": {}, "qk": {}, "vo": {}}
    for choice in sorted(choices, key=lambda choice: choice.layer):
        for group in ("mlp",) if choice.group == "mlp" else ("qk", "vo"):
            shares[group][str(choice.layer)] = choice.share
    return options.updated({**shares, "num_layers": None})


def sparse_loss(model: Any, batches: Sequence[Batch], plan: SparsityPlan) -> float:
    """Mean loss per learnt token with all layers computing by `plan`."""
    with evaluating(model), torch.no_grad():
        return _loss_under(model, [Halfway(model, batch) for batch in batches], plan, {})


def _loss_under(
    model: Any, halfway: list[Halfway], plan: SparsityPlan, guesses: dict[str, Factors]
) -> float:
    total, count = 0.0, 0
    with sparsify(model, plan.updated({"start": 0}), guesses=guesses) as handle:
        for part in halfway:
            if part.learnt:
                with handle.one_pass(part.batch["labels"], part.batch["attention_mask"]):
                    total += part.loss() * part.learnt
                count += part.learnt
    return total / count


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Inside, `model` is in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
