"""Find a plan: measure what losing channels costs in each layer, then spend operations best."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.errors import DataError, SettingError
from gossamer.sparsity.apply import sparsify
from gossamer.sparsity.family import decoder_layers
from gossamer.sparsity.flops import WorkShape
from gossamer.sparsity.plan import Shares, SparsityPlan, by_layers
from gossamer.sparsity.predictor import PredictorFactors

Batch = dict[str, Tensor]


class Halfway:
    """The hidden states of a batch between two layers, all layers below computed densely.

    `batch` holds `input_ids`, `attention_mask` and `labels`, [batch, length] each.
    """

    def __init__(self, model: Any, batch: Batch) -> None:
        self.batch = batch
        self._model = model
        self._layers = [model.get_submodule(layer.path) for layer in decoder_layers(model)]
        self._done = 0
        self._hidden, self._options = self._inputs()

    @property
    def learnt(self) -> int:
        """The number of tokens that the loss is a mean over."""
        return int((self.batch["labels"][:, 1:] != -100).sum())

    def loss(self) -> float:
        """Mean loss per learnt token, in nats, of the layers above as they are now."""
        hidden = self._hidden
        for number in range(self._done, len(self._layers)):
            hidden = self._layers[number](hidden, **self._options[number])
        hidden = self._model.get_decoder().norm(hidden)[:, :-1]
        labels = self.batch["labels"][:, 1:]
        chosen = labels != -100
        # Scores of a large vocabulary are costly: only where something is learnt.
        scores = self._model.get_output_embeddings()(hidden[chosen])
        return float(F.cross_entropy(scores.float(), labels[chosen]))

    def advance(self) -> None:
        """Compute the next layer densely."""
        self._hidden = self._layers[self._done](self._hidden, **self._options[self._done])
        self._done += 1

    def _inputs(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """The first layer's input, and each layer's options: sliding windows have other masks."""
        first: list[Tensor] = []
        options: list[dict[str, Any]] = []

        def see(layer: Any, args: Any, kwargs: Any) -> None:
            if not first:
                first.append(args[0])
            options.append(dict(kwargs))

        handles = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in self._layers]
        inputs = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
        try:
            self._model.get_decoder()(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return first[0], options


def total_loss(halfway: list[Halfway]) -> float:
    """Mean loss per learnt token over several batches."""
    with torch.no_grad():
        count = sum(part.learnt for part in halfway)
        return sum(part.loss() * part.learnt for part in halfway if part.learnt) / count


@dataclass(frozen=True, slots=True)
class Increase:
    """The cost of one choice for one layer."""

    layer: int
    group: str
    """ "mlp" or "attention" (queries, keys, values and the output projection together)."""
    share: float
    """Share of channels that are dropped."""
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
        guesses: dict[str, PredictorFactors] = {}
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
    model: Any, halfway: list[Halfway], plan: SparsityPlan, guesses: dict[str, PredictorFactors]
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
    """Put `model` into evaluation mode inside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


_GRID = 4000


def choose_plan(
    sensitivity: Sensitivity,
    shape: WorkShape,
    options: SparsityPlan,
    *,
    target: float,
    length: float,
    sparse_tokens: float,
    margin: float = 0.0,
) -> SparsityPlan:
    """The plan with the least summed loss increase that keeps at most `target` of the operations.

    Of a whole run, its dense start included, on rows of `length` tokens of which `sparse_tokens`
    (a share) compute sparsely. Per layer and group one share is taken or none: a multiple-choice
    knapsack, solved exactly but for a grid of a four-thousandth of what must be saved. Losses below
    `margin`, negative ones above all, count as `margin`: such differences are noise.
    Raises `SettingError` if even the largest shares keep more than `target`.
    """
    groups = _by_group(sensitivity.increases)
    largest = [max((i.shares for i in group), key=shape.dropped_work) for group in groups]
    check_target(target, largest, shape, options, length=length, sparse_tokens=sparse_tokens)
    start = options.start if options.start < 1 else 0.0
    needed = (1 - target) / (1 - start) * shape.dense_work(length) / sparse_tokens
    chosen = _knapsack(groups, shape, needed, margin)
    return _tidy(plan_of(chosen, options), sensitivity.layers)


def check_target(
    target: float,
    largest: Sequence[Shares],
    shape: WorkShape,
    options: SparsityPlan,
    *,
    length: float,
    sparse_tokens: float,
) -> None:
    """Raise `SettingError` if a run keeps more than `target` even where all drop the `largest`."""
    start = options.start if options.start < 1 else 0.0
    dropped = sum(map(shape.dropped_work, largest))
    least = start + (1 - start) * (1 - sparse_tokens * dropped / shape.dense_work(length))
    if least > target:
        raise SettingError(
            f"target {target:g} cannot be reached: with {sparse_tokens:.0%} of the tokens sparse, "
            f"the largest shares keep {least:.2f} of the operations; allow larger shares, or use "
            "data with more context per learnt token"
        )


def _by_group(increases: Sequence[Increase]) -> list[list[Increase]]:
    groups: dict[tuple[int, str], list[Increase]] = {}
    for increase in increases:
        groups.setdefault((increase.layer, increase.group), []).append(increase)
    return list(groups.values())


def _knapsack(
    groups: list[list[Increase]], shape: WorkShape, needed: float, margin: float
) -> list[Increase]:
    """One choice or none per group, saving at least `needed`, at the least summed loss."""
    infinity = float("inf")
    # best[saved] = least loss that saves that number of grid units or more.
    best = [0.0] + [infinity] * _GRID
    taken: list[list[int]] = []
    for group in groups:
        # Rounded down, so that the target is kept.
        units = [int(shape.dropped_work(i.shares) / needed * _GRID) for i in group]
        losses = [max(i.loss, margin) for i in group]
        new, choice = list(best), [-1] * (_GRID + 1)
        for number, (unit, loss) in enumerate(zip(units, losses, strict=True)):
            for saved in range(_GRID + 1):
                cost = best[max(0, saved - unit)] + loss
                if cost < new[saved]:
                    new[saved], choice[saved] = cost, number
        best = new
        taken.append(choice)
    if best[_GRID] == infinity:
        # What rounding took away: all the largest shares are needed.
        return [max(group, key=lambda i: i.share) for group in groups]
    chosen = []
    left = _GRID
    for group, choice in zip(reversed(groups), reversed(taken), strict=True):
        if choice[left] >= 0:
            increase = group[choice[left]]
            chosen.append(increase)
            left = max(0, left - int(shape.dropped_work(increase.shares) / needed * _GRID))
    return chosen


def _tidy(plan: SparsityPlan, layers: int) -> SparsityPlan:
    """Join neighbouring layers of the same share into one range."""
    shares = [plan.shares(layer) for layer in range(layers)]
    ranges = {
        group: by_layers([getattr(share, group) for share in shares])
        for group in ("mlp", "qk", "vo")
    }
    return plan.updated({**ranges, "num_layers": layers})
