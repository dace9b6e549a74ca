"""Finds a sparsity plan for a model and data: sweep, choice, check of the whole."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.machine import fit_threads
from gossamer.sparsity.family import check_family
from gossamer.sparsity.flops import WorkShape, lora_weights, work_shape
from gossamer.sparsity.plan import Shares, SparsityPlan
from gossamer.sparsity.search import (
    Batch,
    Sensitivity,
    check_target,
    choose_plan,
    sparse_loss,
    sweep,
)
from gossamer.sparsity.tokens import split_tokens
from gossamer.training.data import Example, load_data
from gossamer.training.loop.device import choose_device, choose_dtype
from gossamer.training.plan import collator
from gossamer.training.quiet import quiet_libraries
from gossamer.training.sweep_settings import SweepSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """A plan and the figures that speak for it."""

    plan: SparsityPlan
    sensitivity: Sensitivity
    plan_loss: float
    """The loss with all of the plan at once, which is not the sum of its parts."""
    uniform_loss: float | None
    """Loss with the same operations saved by equal shares in all layers; None: not possible."""
    work_kept: float
    """Share of the operations of a run that the plan keeps."""
    context: float
    """Share of tokens that compute sparsely on these rows."""
    length: float
    """Mean length of the rows, padding included."""


def find_plan(
    settings: SweepSettings, progress: Callable[[int, int], None] = lambda done, total: None
) -> SweepResult:
    """Sweep the layers of the base model on rows of the data and choose a plan.

    Raises `BaseModelError` or `DataError`, and `SettingError` if the target is out of reach.
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
        batches = _batches(data.train, tokenizer, settings, device)
        return _find(model, batches, settings, progress)


def _find(
    model: Any,
    batches: list[Batch],
    settings: SweepSettings,
    progress: Callable[[int, int], None],
) -> SweepResult:
    name = settings.model.rstrip("/").split("/")[-1]
    options = SparsityPlan(start=settings.start, span=settings.span, name=name)
    shape = work_shape(model, adapter_weights=0)
    shape = work_shape(model, adapter_weights=lora_weights(shape, settings.lora_rank, mlp=True))
    length, context = _tokens(batches, settings.span)
    attention = max(settings.attention_shares)
    largest = Shares(mlp=max(settings.mlp_shares), qk=attention, vo=attention)
    # Before the sweep, which takes minutes.
    check_target(
        settings.target,
        [largest] * shape.layers,
        shape,
        options,
        length=length,
        sparse_tokens=context,
    )
    found = sweep(
        model,
        batches,
        mlp_shares=settings.mlp_shares,
        attention_shares=settings.attention_shares,
        options=options,
        progress=progress,
    )
    plan = choose_plan(
        found, shape, options, target=settings.target, length=length, sparse_tokens=context
    )
    kept = _run_share(plan, shape, length=length, context=context)
    uniform = _uniform(plan, shape)
    return SweepResult(
        plan=plan,
        sensitivity=found,
        plan_loss=sparse_loss(model, batches, plan),
        uniform_loss=None if uniform is None else sparse_loss(model, batches, uniform),
        work_kept=kept,
        context=context,
        length=length,
    )


def _batches(
    rows: list[Example], tokenizer: Any, settings: SweepSettings, device: str
) -> list[Batch]:
    generator = torch.Generator().manual_seed(settings.seed)
    order = iter(torch.randperm(len(rows), generator=generator).tolist()[: settings.rows])
    collate, batches = collator(tokenizer), []
    while chosen := [rows[number] for number in islice(order, settings.batch_size)]:
        batch = collate([{"input_ids": r.input_ids, "labels": r.labels} for r in chosen])
        batches.append({name: tensor.to(device) for name, tensor in batch.items()})
    return batches


def _tokens(batches: list[Batch], span: Literal["batch", "sample"]) -> tuple[float, float]:
    """Compute the mean length of a token's row, and the share of tokens that compute sparsely."""
    tokens = sparse = lengths = 0
    for batch in batches:
        rows, length = batch["labels"].shape
        split = split_tokens(
            batch["labels"], None, shape=(rows, length), tokens="context", span=span
        )
        tokens += rows * length
        lengths += rows * length * length
        sparse += split.sparse.numel()
    return lengths / tokens, sparse / tokens


def _run_share(plan: SparsityPlan, shape: WorkShape, *, length: float, context: float) -> float:
    kept = shape.kept_share(plan, length=length, sparse_tokens=context)
    return plan.start + (1 - plan.start) * kept


def _uniform(plan: SparsityPlan, shape: WorkShape) -> SparsityPlan | None:
    """The plan that drops one share of everything everywhere and keeps as much work as `plan`."""
    dropped = sum(shape.dropped_work(shares) for shares in plan.all_shares(shape.layers))
    weights = shape.layers * (shape.mlp_weights + shape.qk_weights + shape.vo_weights)
    share = dropped / (4 * weights)
    if not 0 < share < 1:
        return None
    everywhere = {f"0-{shape.layers - 1}": share}
    return plan.updated({"mlp": everywhere, "qk": everywhere, "vo": everywhere})
