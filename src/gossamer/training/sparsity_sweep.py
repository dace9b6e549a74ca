"""Finds a sparsity plan for a model and data: by a rule first, then perhaps by a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.errors import SettingError
from gossamer.machine import fit_threads
from gossamer.sparsity.family import check_family
from gossamer.sparsity.flops import lora_weights, work_shape
from gossamer.sparsity.plan import SparsityPlan
from gossamer.sparsity.search.back import LARGEST_BACK, back_alone, drops_channels, with_back
from gossamer.sparsity.search.exchange import Exchange
from gossamer.sparsity.search.graded import RISE, Found, GradedShares, inner_layers
from gossamer.sparsity.search.halfway import Batch, JointLoss, Progress
from gossamer.sparsity.search.knapsack import choose_plan
from gossamer.sparsity.search.sweep import Sensitivity, sweep
from gossamer.sparsity.search.work import RunWork
from gossamer.sparsity.tally import Tally, row_lengths
from gossamer.sparsity.tokens import split_tokens
from gossamer.training.collation import collator, features
from gossamer.training.data import Example, load_data
from gossamer.training.loop.device import choose_device, choose_dtype
from gossamer.training.quiet import quiet_libraries
from gossamer.training.sweep_settings import SweepSettings

_START = 0.05
"""Share of the steps that are dense before channels are dropped, unless told."""
_INCREASE = 0.2
"""What dropped channels may add to the loss, unless told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """A plan and the figures that speak for it."""

    plan: SparsityPlan
    layers: int
    """Decoder layers of the model."""
    dense_loss: float
    plan_loss: float
    """The loss with all of the plan at once, which is not the sum of its parts."""
    seed_loss: float
    """The loss with the shares by rule that the search began with."""
    sensitivity: Sensitivity | None
    """What each layer costs alone; None: no sweep was asked for."""
    work_kept: float
    """Share of the operations of a run that the plan keeps, the choice of channels included."""
    choosing_work: float
    """Share of a sparse step's dense operations that the choice of channels takes."""
    back: float
    """Share of sparse tokens whose way back is left out, in the mean over layers."""
    context: float
    """Share of tokens that compute sparsely on these rows, padding left out."""
    length: float
    """Mean length of the rows, padding left out."""


def find_plan(
    settings: SweepSettings, progress: Progress = lambda done, total: None
) -> SweepResult:
    """Find a plan for the base model by its loss on rows of the data.

    Raises `BaseModelError` or `DataError`, and `SettingError` if the target is out of reach, or
    costs more than `max_increase`.
    """
    fit_threads()
    device = choose_device("auto")
    dtype = getattr(torch, choose_dtype(settings.dtype, device))
    folder = resolve(settings.model)
    tokenizer = load_tokenizer(folder)
    data = load_data(settings, tokenizer, seed=settings.seed)
    with quiet_libraries():
        model = load_model(folder, dtype=dtype, device=device)
        check_family(model.config.get_text_config())
        model.requires_grad_(False)
        batches = some_batches(data.train, tokenizer, settings, device)
        return _Search(model, batches, settings, progress).result()


class _Search:
    """The search of one plan."""

    def __init__(
        self, model: Any, batches: list[Batch], settings: SweepSettings, progress: Progress
    ) -> None:
        self._settings, self._progress = settings, progress
        self._model, self._batches = model, batches
        shape = work_shape(model, adapter_weights=0)
        self._options = with_back(_plan_options(settings), shape.layers, _back(settings))
        adapter = lora_weights(shape, settings.lora_rank, mlp=True)
        self._work = RunWork(
            shape=work_shape(model, adapter_weights=adapter),
            tally=count_tokens(batches, self._options),
            start=self._options.start,
            options=self._options,
        )
        # With a whole pass forward there is nothing that adapters would first have to settle on.
        start = settings.start or 0.0
        self._exact = replace(
            self._work, start=start, options=self._options.updated({"start": start})
        )
        inner = inner_layers(shape.layers, settings.first_layers, settings.last_layers)
        joint = JointLoss(model, batches)
        rise = 0.0 if settings.search == "equal" else RISE
        self._graded = GradedShares(joint, self._work, inner, self._options, progress, rise)

    def result(self) -> SweepResult:
        settings = self._settings
        seed = self._begin()
        found, sensitivity = seed, None
        if settings.search == "sweep":
            found, sensitivity = self._swept(seed)
        self._judge(found)
        work = self._work_under(found.plan)
        return SweepResult(
            plan=found.plan,
            layers=work.shape.layers,
            dense_loss=self._graded.joint.dense,
            plan_loss=found.loss,
            seed_loss=seed.loss,
            sensitivity=sensitivity,
            work_kept=work.kept(found.plan),
            choosing_work=work.choosing(found.plan),
            back=_mean_back(found.plan, work.shape.layers),
            context=work.sparse_share,
            length=work.length,
        )

    def _work_under(self, plan: SparsityPlan) -> RunWork:
        """What counts the operations of a run under `plan`, with its own dense start."""
        return self._work if drops_channels(plan) else self._exact

    def _begin(self) -> Found:
        settings, exact = self._settings, self._exact
        if settings.target is None:
            return self._untargeted()
        if settings.back is None and self._options.back:
            plan = back_alone(exact, settings.target)
        else:
            plan = exact.options if exact.kept(exact.options) <= settings.target else None
        if plan is not None:
            return self._at_no_loss(plan)
        return self._graded.reaching(settings.target, settings.attention_shares)

    def _untargeted(self) -> Found:
        """The plan that keeps as little as the bound on the loss allows; without a bound, and where
        the way back may be shortened, that alone."""
        settings = self._settings
        if settings.max_increase is None and self._options.back:
            return self._at_no_loss(self._exact.options)
        found = self._graded.within(_bound(settings), settings.attention_shares)
        return found if drops_channels(found.plan) else self._at_no_loss(self._exact.options)

    def _at_no_loss(self, plan: SparsityPlan) -> Found:
        """A plan that drops no channel, and so has the loss of the dense model."""
        return Found(plan, self._graded.joint.dense)

    def _swept(self, seed: Found) -> tuple[Found, Sensitivity]:
        """The sweep's plan at the same work if its loss is less, and what exchanges make of it."""
        settings, joint = self._settings, self._graded.joint
        sensitivity = sweep(
            JointLoss(self._model, self._batches),
            mlp_shares=settings.mlp_shares,
            attention_shares=settings.attention_shares,
            options=self._options,
            progress=self._progress,
        )
        kept = settings.target or self._work.kept(seed.plan)
        found = self._less(seed, sensitivity, kept)
        exchange = Exchange(sensitivity, self._work, kept, step=0.1)
        return exchange.improve(found, joint, settings.exchanges, self._progress), sensitivity

    def _less(self, seed: Found, sensitivity: Sensitivity, kept: float) -> Found:
        """The plan that the sweep's sums speak for, if the whole of it costs less than `seed`."""
        try:
            summed = choose_plan(sensitivity, self._work, self._options, target=kept)
        except SettingError:
            # The sweep's shares cannot keep so little.
            return seed
        other = Found(summed, self._graded.joint(summed))
        return min(seed, other, key=lambda one: one.loss)

    def _judge(self, found: Found) -> None:
        """Refuse a plan for a target that costs too much."""
        settings, dense = self._settings, self._graded.joint.dense
        increase = found.loss - dense
        if settings.target is None or increase <= _bound(settings):
            return
        raise SettingError(
            f"target {settings.target:g}: the plan adds {increase:.3f} to the loss of {dense:.3f}, "
            f"more than max_increase {_bound(settings):g}; {self._offer()}, or accept it by "
            f"max_increase={increase + 0.005:.2f}"
        )

    def _offer(self) -> str:
        """What to do instead of a target that costs too much."""
        try:
            found = self._untargeted()
        except SettingError:
            return "train densely"
        return (
            f"leave the target out, which keeps {self._work_under(found.plan).kept(found.plan):.2f}"
        )


def _mean_back(plan: SparsityPlan, layers: int) -> float:
    return sum(shares.back for shares in plan.all_shares(layers)) / layers


def _bound(settings: SweepSettings) -> float:
    """What dropped channels may add to the loss."""
    return _INCREASE if settings.max_increase is None else settings.max_increase


def _back(settings: SweepSettings) -> float:
    """The share of sparse tokens whose way back may be left out."""
    of_channels = settings.criterion == "svd" or settings.search == "sweep"
    if settings.search == "sweep" and settings.back:
        raise SettingError(
            f"back={settings.back:g}: the sweep searches channels alone; use search=graded"
        )
    if settings.back is None:
        return 0.0 if of_channels else LARGEST_BACK
    return settings.back


def _plan_options(settings: SweepSettings) -> SparsityPlan:
    return SparsityPlan(
        name=settings.model.rstrip("/").split("/")[-1],
        start=_START if settings.start is None else settings.start,
        span=settings.span,
        criterion=settings.criterion,
        sample_tokens=settings.sample_tokens,
        sample_of=settings.sample_of,
        compensation=settings.compensation,
    )


def some_batches(
    rows: Sequence[Example], tokenizer: Any, settings: SweepSettings, device: str
) -> list[Batch]:
    """The rows of the data on which losses are measured, in batches on `device`."""
    generator = torch.Generator().manual_seed(settings.seed)
    order = iter(torch.randperm(len(rows), generator=generator).tolist()[: settings.rows])
    collate, batches = collator(tokenizer), []
    while chosen := [rows[number] for number in islice(order, settings.batch_size)]:
        batch = collate([features(row) for row in chosen])
        batches.append({name: tensor.to(device) for name, tensor in batch.items()})
    return batches


def count_tokens(batches: list[Batch], options: SparsityPlan) -> Tally:
    """Count the tokens of a sparse pass over `batches`."""
    tally = Tally()
    for batch in batches:
        labels, mask = batch["labels"], batch["attention_mask"]
        shape = (labels.shape[0], labels.shape[1])
        lengths = row_lengths(mask, shape)
        tally.add(lengths, split_tokens(options, labels, mask, shape=shape), options)
    return tally
