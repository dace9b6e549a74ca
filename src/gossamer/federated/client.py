"""One client's part of a round: from what the server sends to what the client sends back.

A `Learner` is a model that learns a round at a time. In one process all clients share one, since
each round begins with what the server sends; a client of its own machine has one for itself.
"""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import set_seed

from gossamer.errors import TrainingError
from gossamer.federated.additions import Additions
from gossamer.federated.aggregation.base import Parts
from gossamer.federated.aggregation.tensors import (
    FactorPair,
    Tensors,
    cut_to_rank,
    learns,
    pad_like,
    pair_names,
)
from gossamer.methods.pissa import START_FILE, Pissa
from gossamer.training.data import EncodedData
from gossamer.training.loop.build import build_model, build_trainer
from gossamer.training.loop.own_forward import give_back_forward, own_forward
from gossamer.training.loop.trainer_hooks import as_before_autocast
from gossamer.training.plan import StagePlan, make_plan
from gossamer.training.prepare import Prepared

_KEPT = ".slora_kept."
"""A part of the names of what SLoRA keeps of its sparse stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a client is asked to do in a round, beside the tensors that it begins with."""

    number: int
    """The round, from 1."""
    stage: int
    """Index of the method's stage."""
    parts: Parts | None
    """Which of the factors A and B learn; None: all that the method makes learn."""
    learning_rate: float
    rank: int | None
    """The client's rank; None: the method's."""
    seed: int
    """Fixes the order of the rows, and dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientReply:
    """What a client sends back."""

    tensors: Tensors
    """What has learnt, by the names of parameters, cut to the client's rank."""
    rows: int
    """The client's training rows, by which the server weighs it."""
    loss: float
    """Mean training loss of the round's steps."""
    steps: int
    seconds: float


class Learner:
    """A model that learns a round at a time."""

    def __init__(self, prepared: Prepared, *, rounds: int) -> None:
        """Load the base model and apply the method. `rounds` takes the place of a run's steps
        where the method shares them out among its stages."""
        self.prepared = prepared
        self.method = prepared.method
        self.context = replace(prepared.context, total_steps=rounds)
        self.stage = 0
        self._additions = Additions()
        self.model = build_model(self.method, self.context, prepared.liger, prepared.start_from)
        self.learning = self._learning()

    def tensors(self) -> Tensors:
        """Return what learns, copied to the CPU, by the names of parameters."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name].detach().cpu().clone() for name in self.learning}

    def fixed(self) -> Tensors:
        """Return what the stage has that does not learn and no seed gives: what SLoRA keeps of its
        sparse stage."""
        return {n: b.cpu().clone() for n, b in self.model.named_buffers() if _KEPT in n}

    @property
    def needs_start(self) -> bool:
        """Whether what the stage began with is a part of what the model computes."""
        return isinstance(self.method, Pissa) or bool(self.fixed())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set what learns; of lower ranks the components that are missing become zero."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors.items():
                like = parameters[name]
                like.copy_(pad_like(tensor.to(like.device), like))

    def enter(self, stage: int) -> None:
        """Make the model of a later stage of what the model holds."""
        while self.stage < stage:
            self.stage += 1
            set_seed(self.context.seed)
            self.model = self.method.enter_stage(self.model, self.stage, self.context)
            self.learning = self._learning()

    def resume(self, stage: int, folder: Path) -> None:
        """Make the model that was saved to `folder` in that stage."""
        self.model = self.method.resume_stage(self.model, stage, folder, self.context)
        self.stage = stage
        self.learning = self._learning()

    def adopt_start(self, start: Mapping[str, Tensor], fixed: Mapping[str, Tensor]) -> None:
        """Take over what the server's stage began with, and what of it does not learn: what this
        machine has computed for itself may differ in the last digits, or in signs."""
        buffers = dict(self.model.named_buffers())
        for name, tensor in fixed.items():
            buffers[name].copy_(tensor)
        if fixed:
            for name, tensor in start.items():
                kept = name.replace(".slora_A.", ".slora_A0.").replace(".slora_B.", ".slora_B0.")
                buffers[kept].copy_(tensor)
        if isinstance(self.method, Pissa):
            with TemporaryDirectory(prefix="gossamer-start-") as scratch:
                self.method.save(self.model, Path(scratch), self.context)
                held = pair_names(start)
                begun = {f"{path}.A": start[a] for path, (a, _) in held.items()}
                begun |= {f"{path}.B": start[b] for path, (_, b) in held.items()}
                save_file(begun, Path(scratch) / START_FILE)
                self.method.restore(self.model, Path(scratch))

    def add_to_base(self, merged: Sequence[Mapping[str, FactorPair]]) -> None:
        """Add to the base what the server added in each round so far, as far as that is news."""
        self._additions.take(self.model, merged)

    def train(
        self, order: Order, tensors: Mapping[str, Tensor], rows: Sequence[Any]
    ) -> ClientReply:
        """Learn a round on `rows`, with a new optimizer; raises `TrainingError` if it diverges."""
        began = time.perf_counter()
        self.load({n: cut_to_rank(n, t, order.rank) for n, t in tensors.items()})
        with self._only(order.parts) as learning:
            losses = self._steps(order, rows)
            parameters = dict(self.model.named_parameters())
            learnt = {name: parameters[name].detach().cpu().clone() for name in learning}
        return ClientReply(
            # Clones: a part of a tensor would keep all of it.
            tensors={n: cut_to_rank(n, t, order.rank).clone() for n, t in learnt.items()},
            rows=len(rows),
            loss=sum(losses) / len(losses),
            steps=len(losses),
            seconds=time.perf_counter() - began,
        )

    def evaluate(self, held_out: Sequence[Any]) -> float:
        """Return the mean loss per trained token of the rows, in nats, of what the model holds."""
        data = self._data(held_out[:1], held_out)
        trainer, forward = self._trainer(data, self._stage(1, 0.0), self.context.seed)
        try:
            return float(trainer.evaluate()["eval_loss"])
        finally:
            self._give_back(trainer, forward)

    def _steps(self, order: Order, rows: Sequence[Any]) -> list[float]:
        plan = make_plan(self.prepared.settings, len(rows))
        stage = self._stage(plan.steps, order.learning_rate)
        trainer, forward = self._trainer(self._data(rows, []), stage, order.seed)
        try:
            trainer.train()
            history = trainer.state.log_history
        finally:
            self._give_back(trainer, forward)
        return [float(record["loss"]) for record in history if "loss" in record]

    def _data(self, rows: Sequence[Any], held_out: Sequence[Any]) -> EncodedData:
        report = replace(self.prepared.data.report, rows_used=len(rows))
        return EncodedData(list(rows), list(held_out), report)

    def _stage(self, steps: int, rate: float) -> StagePlan:
        return StagePlan(
            index=0, name="round", start=0, steps=steps, learning_rate=rate, warmup_steps=0
        )

    def _trainer(self, data: EncodedData, stage: StagePlan, seed: int) -> tuple[Any, Any]:
        """A trainer of one round, and the forward function to give back to the model."""
        settings = self.prepared.settings
        settings = settings.model_copy(update={"seed": seed, "scheduler": "constant"})
        forward = own_forward(self.model)
        trainer = build_trainer(
            self.model,
            self.prepared.tokenizer,
            data,
            settings=settings,
            method=self.method,
            context=replace(self.context, seed=seed),
            plan=make_plan(settings, len(data.train)),
            stage=stage,
        )
        return trainer, forward

    def _give_back(self, trainer: Any, forward: Any) -> None:
        self.model = as_before_autocast(trainer.accelerator.unwrap_model(trainer.model))
        give_back_forward(self.model, forward)
        # Trainer and callbacks refer to each other; the optimizer's state is to go now.
        del trainer
        gc.collect()

    def _learning(self) -> list[str]:
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        if not names:
            raise TrainingError(f"method '{self.method.name}' has nothing that learns here")
        return names

    @contextmanager
    def _only(self, parts: Parts | None) -> Iterator[list[str]]:
        """Let only some of the factors learn inside; the names of what learns."""
        frozen = [name for name in self.learning if not learns(name, parts)]
        parameters = dict(self.model.named_parameters())
        try:
            for name in frozen:
                parameters[name].requires_grad = False
            yield [name for name in self.learning if name not in frozen]
        finally:
            for name in frozen:
                parameters[name].requires_grad = True
