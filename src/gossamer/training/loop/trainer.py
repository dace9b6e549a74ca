"""TRL's trainer, made exact: seeded row order, atomic checkpoints, a look at every step."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from trl import SFTTrainer
from trl.trainer import utils

from gossamer.errors import TrainingError
from gossamer.methods import Method, MethodContext
from gossamer.training.collation import features, token_mask
from gossamer.training.density.meter import DensityMeter
from gossamer.training.outputs.checkpoint import (
    as_checkpoint_error,
    prune_checkpoints,
    read_stage,
    write_checkpoint,
    write_stage,
)
from gossamer.training.plan import RowOrder, RunPlan, StagePlan, rate_factor
from gossamer.training.settings import RunSettings


@contextmanager
def trained_tokens_only() -> Iterator[None]:
    """Let TRL's fused loss multiply only the positions with a label by the output head.

    By itself it does so where Triton runs, and scores all positions elsewhere, padding included,
    for the sake of accelerators that compile again for each shape. On a CPU that is only waste: the
    head of a small model with a large vocabulary is a third of the step. The losses are the same.
    TRL below 1.16 has no such choice: it leaves the others out by itself, on every device.
    """
    before = getattr(utils, "_use_triton", None)
    if before is None:
        yield
        return
    utils._use_triton = lambda device: device.type == "cpu" or before(device)
    try:
        yield
    finally:
        utils._use_triton = before


class RunBehaviour(Trainer):
    """What a run asks of any of TRL's trainers, put in front of one as a base class.

    `train` goes on from a checkpoint of the stage, or from that at the end of the stage before; the
    model is that of the checkpoint already.
    """

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        *,
        settings: RunSettings,
        method: Method[Any],
        context: MethodContext,
        plan: RunPlan,
        stage: StagePlan,
        eval_rows: list[Any],
        density: DensityMeter | None = None,
        **options: Any,
    ) -> None:
        # Before the base class, whose constructor calls methods that are overridden below.
        self._settings = settings
        self._method = method
        self._context = context
        self._plan = plan
        self.stage = stage
        self.eval_rows = eval_rows
        self.density = density
        self.step_tokens = self.step_trained_tokens = 0
        self.last_checkpoint = Path()
        self.best_step: int | None = None
        """A step whose checkpoint stays."""
        super().__init__(**options)

    def _send_telemetry(self) -> None:
        """Report nothing to anyone."""

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        return RowOrder(self._plan, self._settings.seed)

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.optimizer = self._method.optimizer(
                self.model,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            factor = partial(rate_factor, plan=self.stage, scheduler=self._settings.scheduler)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        tokens, trained = self.counts(inputs)
        self.step_tokens += tokens
        self.step_trained_tokens += trained
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise self._diverged("the loss", loss.item())
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        watching = (
            nullcontext() if self.density is None else self.density.watching(token_mask(inputs))
        )
        with trained_tokens_only(), watching:
            loss = super().compute_loss(model, inputs, *args, **options)
        if not self.model.training:
            return loss
        terms = [self._method.regularizer(self.model)]
        terms += [] if self.density is None else [self.density.loss()]
        for term in terms:
            if term is not None:
                # Once per optimizer step, whatever the accumulation, which TRL's trainer divides
                # by itself where it says so; in the gradient, not in the value.
                divided = getattr(self, "loss_is_scaled_for_ga", None) is False
                share = term / (1 if divided else self.current_gradient_accumulation_steps)
                loss = loss + (share - share.detach())
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        # Called before the optimizer steps: weights never become NaN, so checkpoints are sound.
        norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))
        if not math.isfinite(norm):
            raise self._diverged("the gradient's norm", norm)
        return norm

    def _diverged(self, what: str, value: float) -> TrainingError:
        rate = self.stage.learning_rate
        return TrainingError(
            f"{what} became {value} at step {self.state.global_step + 1}; try a lower "
            f"learning_rate (now {rate:g}), a longer warmup, a lower max_grad_norm, or "
            "dtype=float32. Checkpoints up to here are kept"
        )

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Mean loss per trained token, or per pair, over the held-out rows, whatever the batch."""
        began = time.perf_counter()
        model = self.model
        was_training = model.training
        model.eval()
        loss_sum, count, weights = 0.0, 0, list[int]()
        self.density_figures()
        try:
            for batch in self._eval_batches():
                weights.append(self.weight(batch))
                count += self.counts(batch)[1]
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss_sum += float(self.compute_loss(model, batch)) * weights[-1]
            figures = self.eval_figures(weights)
        finally:
            model.train(was_training)
            self._metrics["eval"].clear()
        metrics = {
            "eval_loss": loss_sum / max(sum(weights), 1),
            "eval_tokens": count,
            "eval_seconds": time.perf_counter() - began,
            **{f"eval_{name}": value for name, value in self.density_figures().items()},
            **figures,
        }
        self.control = self.callback_handler.on_log(
            self.args, self.state, self.control, dict(metrics)
        )
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def counts(self, batch: Any) -> tuple[int, int]:
        """How many tokens `batch` has, and how many of them count in the loss."""
        return int(token_mask(batch).sum()), int((batch["labels"][:, 1:] != -100).sum())

    def weight(self, batch: Any) -> int:
        """What the loss of a batch is the mean over."""
        return self.counts(batch)[1]

    def eval_figures(self, weights: list[int]) -> dict[str, float]:
        """What else was measured in batches of these weights, by names that begin with eval_."""
        return {}

    def density_figures(self) -> dict[str, float]:
        """What the density meter saw since the last call; empty without one."""
        return {} if self.density is None else self.density.take()

    def _eval_batches(self) -> Iterator[Any]:
        size = self._settings.batch_size
        for start in range(0, len(self.eval_rows), size):
            rows = self.eval_rows[start : start + size]
            batch = self.data_collator([features(row) for row in rows])
            yield send_to_device(batch, self.args.device)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        # The metrics file has every step; a history in each checkpoint would grow without end.
        self.state.log_history = []
        output = Path(self._settings.output)
        self.last_checkpoint = write_checkpoint(output, self.state.global_step, self._fill)
        prune_checkpoints(output, self._settings.save_total_limit, best=self.best_step)

    def _fill(self, folder: Path) -> None:
        self._method.save(self.model, folder, self._context)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        write_stage(folder, self.stage)
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Do nothing: the run has built the model from the checkpoint."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # A stage begins with a new optimizer.
        if checkpoint is None or read_stage(Path(checkpoint)) != self.stage.index:
            return
        with as_checkpoint_error(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)


class RunTrainer(RunBehaviour, SFTTrainer):
    """An `SFTTrainer` over examples that are token ids already, for one stage of a run."""
