"""Make a model compute sparsely while it trains, and undo it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gossamer.errors import SettingError, TrainingError
from gossamer.sparsity.family import DecoderLayer, decoder_layers
from gossamer.sparsity.flops import WorkShape, work_shape
from gossamer.sparsity.frozen_linear import FrozenLinear, base_linear
from gossamer.sparsity.layers import (
    Pass,
    Replaced,
    SparseAttention,
    SparseMlp,
    outside_graphs,
    undone_on_error,
)
from gossamer.sparsity.plan import Shares, SparsityPlan, load_plan
from gossamer.sparsity.predictor import (
    Chance,
    Criterion,
    Guess,
    PredictorFactors,
    TrueNorms,
    real_rows,
    sampled_rows,
)
from gossamer.sparsity.predictor_cache import load_or_make
from gossamer.sparsity.tally import Tally, row_lengths
from gossamer.sparsity.tokens import TokenSplit, split_tokens

_PASSES_PER_STEP = 1 << 20
_SCORED = {"gate": "gate_proj", "up": "up_proj", "q": "q_proj", "k": "k_proj", "v": "v_proj"}


def sparsify(
    model: Any,
    plan: SparsityPlan | str | os.PathLike[str],
    *,
    total_steps: int | None = None,
    digest: str | None = None,
    cache: Path | None = None,
    guesses: dict[str, PredictorFactors] | None = None,
    note: Callable[[str], None] | None = None,
) -> "SparseCompute":
    """Let `model` compute by `plan` in passes that train; returns the handle that undoes it.

    `model` is a Llama, Mistral, Qwen2, Qwen3 or SmolLM of transformers, best inside the PeftModel
    that trains it: adapters come first. A pass computes sparsely if the model is in training mode,
    gradients are on, and the step is past the plan's dense start; so evaluation and generation are
    dense. With `tokens: context` the labels must be given to the model.

    Args:
        plan: a plan, its file, or the name of a published one.
        total_steps: optimizer steps of the run, of which `start` may be a share.
        digest: identity of the base weights, for the cache.
        guesses: those of an earlier call for the same base; new ones are added to it.
        cache: folder in which guesses are kept; None: they are made again each time.
        note: is told of damaged or unwritable cache files; by default a line on standard error.

    Raises:
        UnknownNameError, SettingError: the plan is unknown or does not fit the model.
        UnsupportedModelError, UnsupportedAdapterError: the model or its adapters cannot do it.
    """
    if not isinstance(plan, SparsityPlan):
        plan = load_plan(plan)
    return SparseCompute(
        model,
        plan,
        total_steps=total_steps,
        digest=digest,
        cache=cache,
        guesses={} if guesses is None else guesses,
        note=note or _print_note,
    )


class SparseCompute:
    """A model under a plan. A context manager: leaving it undoes everything."""

    def __init__(
        self,
        model: Any,
        plan: SparsityPlan,
        *,
        total_steps: int | None,
        digest: str | None,
        cache: Path | None,
        guesses: dict[str, PredictorFactors],
        note: Callable[[str], None],
    ) -> None:
        if getattr(model, "_gossamer_sparse", None) is not None:
            raise SettingError("sparsify: the model computes sparsely already; undo() that first")
        self.plan = plan
        self.enabled = True
        """Whether layers may compute sparsely; while False, everything is dense."""
        self.tally = Tally()
        """The counts of all passes."""
        self.step_tally = Tally()
        """The counts of the passes since `set_step`."""
        self._first_sparse_step = plan.first_sparse_step(total_steps)
        self._model = model
        self._pass = Pass()
        self._outer: list[Any] = []
        self._step = self._pass_of_step = 0
        self._chances: list[Chance] = []
        self._replaced = Replaced()
        layers = decoder_layers(model)
        shares = plan.all_shares(len(layers))
        linears = _scored_linears(layers, shares)
        factors: dict[str, PredictorFactors] = {}
        if plan.criterion == "svd":
            new = {name: linear for name, linear in linears.items() if name not in guesses}
            made = load_or_make(new, rank=plan.rank, digest=digest, folder=cache, note=note)
            guesses.update(made)
            factors = {name: guesses[name] for name in linears}
        self.predictor_bytes = sum(factor.num_bytes for factor in factors.values())
        """The bytes that the factors of the guesses take."""
        with undone_on_error(self._replaced):
            for number, (layer, share) in enumerate(zip(layers, shares, strict=True)):
                self._attach(number, layer, share, linears, factors)
            before, after = outside_graphs(self._before), outside_graphs(self._after)
            self._replaced.hook(model.register_forward_pre_hook(before, with_kwargs=True))
            self._replaced.hook(model.register_forward_hook(after, always_call=True))
        self._model._gossamer_sparse = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.undo()

    def undo(self) -> None:
        """Give the model back as it was; harmless when called twice."""
        self._replaced.undo()
        if getattr(self._model, "_gossamer_sparse", None) is self:
            del self._model._gossamer_sparse

    def set_step(self, step: int) -> None:
        """Say which optimizer step comes next, counted from 0."""
        self._step = step
        self._pass_of_step = 0
        self.step_tally = Tally()

    @property
    def is_sparse_step(self) -> bool:
        """Whether the present step is past the dense start."""
        return self.enabled and self._step >= self._first_sparse_step

    @cached_property
    def work_shape(self) -> WorkShape:
        """The sizes from which the model of FLOPs computes."""
        return work_shape(self._model)

    @property
    def work_kept(self) -> float:
        """Share of the dense work that the passes so far took, by the model of FLOPs."""
        return self.tally.work_kept(self.plan, self.work_shape)

    @property
    def step_work_kept(self) -> float:
        """Share of the dense work that the passes since `set_step` took, by the model of FLOPs."""
        return self.step_tally.work_kept(self.plan, self.work_shape)

    @property
    def step_choosing_work(self) -> float:
        """Share of the dense work that choosing channels took since `set_step`; it is part of
        `step_work_kept`."""
        return self.step_tally.choosing_work(self.plan, self.work_shape)

    def _attach(
        self,
        number: int,
        layer: DecoderLayer,
        shares: Shares,
        linears: dict[str, FrozenLinear],
        factors: dict[str, PredictorFactors],
    ) -> None:
        criterion = self._criterion(number, linears, factors)
        if shares.qk or shares.vo or shares.back:
            SparseAttention(
                self._pass,
                layer.attention,
                f"{layer.path}.self_attn",
                number,
                heads=layer.heads,
                shares=shares,
                plan=self.plan,
                criterion=criterion,
                replaced=self._replaced,
            )
        if shares.mlp or shares.back:
            SparseMlp(
                self._pass,
                layer.mlp,
                f"{layer.path}.mlp",
                number,
                shares=shares,
                plan=self.plan,
                criterion=criterion,
                replaced=self._replaced,
            )

    def _criterion(
        self, number: int, linears: dict[str, FrozenLinear], factors: dict[str, PredictorFactors]
    ) -> Criterion:
        own = {name: f"{number}.{name}" for name in _SCORED}
        if self.plan.criterion == "svd":
            present = {name: factors[key] for name, key in own.items() if key in factors}
            return Guess(present, mean_tokens=self.plan.mean_tokens)
        found = {name: linears[key] for name, key in own.items() if key in linears}
        if self.plan.criterion == "sample":
            return TrueNorms(found, sampled_rows)
        if self.plan.criterion == "oracle":
            return TrueNorms(found, real_rows)
        chance = Chance(found, seed=self.plan.seed * 1_000_003 + number * 7919)
        self._chances.append(chance)
        return chance

    def _before(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        self._outer.append(self._pass.split)
        self._pass.split = None
        if not (model.training and torch.is_grad_enabled()):
            return
        shape, mask = _batch_shape(args, kwargs), _padding_mask(kwargs)
        lengths = row_lengths(mask, shape)
        split = self._sparse_split(shape, mask, kwargs) if self.is_sparse_step else None
        self._pass.split = split
        for tally in (self.tally, self.step_tally):
            tally.add(lengths, split, self.plan)
        self._draw_anew()

    def _sparse_split(
        self, shape: tuple[int, int], mask: Tensor | None, kwargs: Any
    ) -> TokenSplit | None:
        """The split of a batch that trains; None if none of its tokens computes sparsely."""
        self._refuse_packing(kwargs)
        labels = kwargs.get("labels")
        if labels is None and self.plan.tokens == "context":
            raise TrainingError(
                "sparse compute: the model was given no labels, so it cannot be told which tokens "
                "are context; pass labels to the model, or plan with tokens: all"
            )
        split = split_tokens(self.plan, labels, mask, shape=shape)
        return split if split.context else None

    @contextmanager
    def one_pass(self, labels: Tensor, mask: Tensor | None = None) -> Iterator[None]:
        """Inside, layers compute sparsely whatever mode and step; for measurements.

        `labels` and `mask` [batch, length] are those of the batch that they will be given.
        """
        before, shape = self._pass.split, (labels.shape[0], labels.shape[1])
        split = split_tokens(self.plan, labels, mask, shape=shape)
        self._pass.split = split if split.context else None
        try:
            yield
        finally:
            self._pass.split = before

    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        outer = self._outer.pop()
        # A backward pass with gradient checkpointing still needs the state of its forward pass; a
        # pass without gradients in between, such as a reference model's, must not replace it.
        if not torch.is_grad_enabled():
            self._pass.split = outer

    def _draw_anew(self) -> None:
        moment = self._step * _PASSES_PER_STEP + self._pass_of_step
        self._pass_of_step += 1
        for chance in self._chances:
            chance.moment = moment

    def _refuse_packing(self, kwargs: Any) -> None:
        packed = kwargs.get("cu_seq_lens_q") is not None or kwargs.get("seq_idx") is not None
        positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
        if isinstance(positions, Tensor) and positions.dim() == 2 and positions.shape[1] > 1:
            back = positions[:, 1:] < positions[:, :-1]
            if isinstance(mask, Tensor) and mask.shape == positions.shape:
                back = back & mask[:, :-1].bool() & mask[:, 1:].bool()
            packed = packed or bool(back.any())
        if packed:
            raise TrainingError(
                "sparse compute: the rows are packed, several texts in each, so nearly all tokens "
                "lie between the first label and the last; train with packing=False"
            )


def _scored_linears(layers: list[DecoderLayer], shares: list[Shares]) -> dict[str, FrozenLinear]:
    """The layers whose outputs are scored, as "number.name"; those under adapters included."""
    found: dict[str, FrozenLinear] = {}
    for number, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        names = ["gate", "up"] if share.mlp else []
        names += ["q", "k"] if share.qk else []
        names += ["v"] if share.vo else []
        for name in names:
            block = layer.mlp if name in ("gate", "up") else layer.attention
            module = getattr(block, _SCORED[name])
            linear, _ = base_linear(module, f"{layer.path}.{_SCORED[name]}")
            found[f"{number}.{name}"] = FrozenLinear(linear)
    return found


def _batch_shape(args: Any, kwargs: Any) -> tuple[int, int]:
    for name in ("input_ids", "inputs_embeds"):
        if kwargs.get(name) is not None:
            shape = kwargs[name].shape
            return int(shape[0]), int(shape[1])
    return int(args[0].shape[0]), int(args[0].shape[1])


def _padding_mask(kwargs: Any) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _print_note(text: str) -> None:
    print(text, file=sys.stderr)
