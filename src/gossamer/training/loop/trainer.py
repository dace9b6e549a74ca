"""TRL's trainer, made exact: seeded row order, atomic checkpoints, a look at every step."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.optim.lr_scheduler import LambdaLR
from trl import SFTTrainer

from gossamer.errors import DataError, TrainingError
from gossamer.methods import Method, MethodContext
from gossamer.methods.common.ranks import (
    gather_over_ranks,
    is_first,
    mean_over_ranks,
    meet,
    rank,
    sum_over_ranks,
    world,
)
from gossamer.training.collation import features, token_mask
from gossamer.training.density.meter import DensityMeter
from gossamer.training.loop.head_positions import trained_tokens_only
from gossamer.training.loop.trainer_hooks import RunHooks
from gossamer.training.outputs.checkpoint import (
    as_checkpoint_error,
    checkpoint_folder,
    prune_checkpoints,
    read_stage,
    write_checkpoint,
    write_stage,
)
from gossamer.training.plan import RowOrder, RunPlan, StagePlan, rate_factor
from gossamer.training.settings import RunSettings


class RunBehaviour(RunHooks):
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

    def row_order(self) -> RowOrder:
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

    def check_gradient(self, norm: float) -> None:
        # Called before the optimizer steps: weights never become NaN, so checkpoints are sound.
        if not math.isfinite(norm):
            raise self._diverged("the gradient's norm", norm)

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
            for batch, counts in self._eval_batches():
                weights.append(self.weight(batch) if counts else 0)
                count += self.counts(batch)[1] if counts else 0
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss_sum += float(self.compute_loss(model, batch)) * weights[-1]
            figures = self.eval_figures(weights)
        finally:
            model.train(was_training)
            self.trl_figures("eval").clear()
        figures |= {f"eval_{name}": value for name, value in self.density_figures().items()}
        weight = sum(weights)
        loss_sum, counted, total = sum_over_ranks([loss_sum, count, weight])
        if not counted:
            raise DataError(
                "no held-out row has a token to learn within max_length="
                f"{self._settings.max_length}, so their loss tells nothing; raise max_length"
            )
        metrics = {
            "eval_loss": loss_sum / total,
            "eval_tokens": int(counted),
            "eval_seconds": time.perf_counter() - began,
            **mean_over_ranks(figures, weight),
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

    def _eval_batches(self) -> Iterator[tuple[Any, bool]]:
        """This process's share of the held-out batches, and whether each counts.

        TRL's trainers exchange figures in each batch, so all processes have as many: one that has
        fewer computes its first once more (or that of another), which does not count.
        """
        size = self._settings.batch_size
        starts = range(0, len(self.eval_rows), size)
        for turn in range(0, len(starts), world()):
            counts = turn + rank() < len(starts)
            start = starts[turn + rank()] if counts else 0
            rows = self.eval_rows[start : start + size]
            batch = self.data_collator([features(row) for row in rows])
            yield send_to_device(batch, self.args.device), counts

    def save_checkpoint(self) -> None:
        # The metrics file has every step; a history in each checkpoint would grow without end.
        self.state.log_history = []
        output = Path(self._settings.output)
        self.last_checkpoint = checkpoint_folder(output, self.state.global_step)
        states = gather_over_ranks(self.random_state())
        if is_first():
            fill = partial(self._fill, states=states)
            write_checkpoint(output, self.state.global_step, fill)
            prune_checkpoints(output, self._settings.save_total_limit, best=self.best_step)
        # What is read of it by the next stage or the result is there for all.
        meet()

    def _fill(self, folder: Path, states: list[dict[str, bytes]]) -> None:
        self._method.save(self.model, folder, self._context)
        self.save_training_state(folder)
        for files in states:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        write_stage(folder, self.stage)

    def load_optimizer(self, checkpoint: Path) -> None:
        # A stage begins with a new optimizer.
        if read_stage(checkpoint) == self.stage.index:
            with as_checkpoint_error(checkpoint):
                self.restore_optimizer(checkpoint)


class RunTrainer(RunBehaviour, SFTTrainer):
    """An `SFTTrainer` over examples that are token ids already, for one stage of a run."""
