"""Finds a sparsity plan for a model and data: by a rule first, then perhaps by a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
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
        self._options = _plan_options(settings)
        shape = work_shape(model, adapter_weights=0)
        adapter = lora_weights(shape, settings.lora_rank, mlp=True)
        self._work = RunWork(
            shape=work_shape(model, adapter_weights=adapter),
            tally=count_tokens(batches, self._options),
            start=settings.start,
            options=self._options,
        )
        inner = inner_layers(shape.layers, settings.first_layers, settings.last_layers)
        joint = JointLoss(model, batches)
        rise = 0.0 if settings.search == "equal" else RISE
        self._graded = GradedShares(joint, self._work, inner, self._options, progress, rise)

    def result(self) -> SweepResult:
        settings, work = self._settings, self._work
        seed = self._begin()
        found, sensitivity = seed, None
        if settings.search == "sweep":
            found, sensitivity = self._swept(seed)
        self._judge(found)
        return SweepResult(
            plan=found.plan,
            layers=work.shape.layers,
            dense_loss=self._graded.joint.dense,
            plan_loss=found.loss,
            seed_loss=seed.loss,
            sensitivity=sensitivity,
            work_kept=work.kept(found.plan),
            choosing_work=work.choosing(found.plan),
            context=work.sparse_share,
            length=work.length,
        )

    def _begin(self) -> Found:
        settings = self._settings
        if settings.target is None:
            return self._graded.within(settings.max_increase, settings.attention_shares)
        return self._graded.reaching(settings.target, settings.attention_shares)

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
        if settings.target is None or increase <= settings.max_increase:
            return
        raise SettingError(
            f"target {settings.target:g}: the plan adds {increase:.3f} to the loss of {dense:.3f}, "
            f"more than max_increase {settings.max_increase:g}; {self._offer()}, or accept it by "
            f"max_increase={increase + 0.005:.2f}"
        )

    def _offer(self) -> str:
        """What to do instead of a target that costs too much."""
        settings = self._settings
        try:
            found = self._graded.within(settings.max_increase, settings.attention_shares)
        except SettingError:
            return "train densely"
        return f"leave the target out, which keeps {self._work.kept(found.plan):.2f}"


def _plan_options(settings: SweepSettings) -> SparsityPlan:
    return SparsityPlan(
        name=settings.model.rstrip("/").split("/")[-1],
        start=settings.start,
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
