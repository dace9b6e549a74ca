"""Acts inside the trainer's loop: metrics, evaluation, checkpoints, Ctrl-C and SIGTERM."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gossamer.methods.common.ranks import any_over_ranks, is_first, mean_over_ranks, sum_over_ranks
from gossamer.sparsity.callback import SparseComputeCallback
from gossamer.training.loop.held_out import HeldOutLoss, is_due
from gossamer.training.loop.preference_trainer import preference_figures
from gossamer.training.loop.sampler import PromptSampler
from gossamer.training.loop.trainer import RunBehaviour
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import MetricsFile, Record
from gossamer.training.plan import StagePlan
from gossamer.training.settings import RunSettings

_DIGITS = {"work_kept": 4, "choosing_work": 5}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped by a signal; what it had learnt is in `checkpoint`."""

    def __init__(self, output: Path, checkpoint: Path | None) -> None:
        super().__init__(f"interrupted; go on with: gossamer tune --output {output} --resume")
        self.output = output
        self.checkpoint = checkpoint


class StopRequest:
    """A request to stop: set by the first signal, read by the run after each step."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        # Not print: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(2, b"\nstopping after this step; once more stops at once\n")


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch the signals inside; outside the main thread, where none arrive, do nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RunCallback(TrainerCallback):
    """Writes a line per step, decides when to evaluate, save and stop."""

    def __init__(
        self,
        trainer: RunBehaviour,
        settings: RunSettings,
        metrics: MetricsFile,
        listener: Listener,
        stop: StopRequest,
        stages: Sequence[StagePlan],
        *,
        sparse: SparseComputeCallback | None = None,
        held_out: HeldOutLoss | None = None,
        sampler: PromptSampler | None = None,
    ) -> None:
        self._trainer = trainer
        self._total_steps = stages[-1].end
        self._staged = len(stages) > 1
        self._settings = settings
        self._metrics = metrics
        self._listener = listener
        self._stop = stop
        self._sparse = sparse
        self._held_out = held_out
        self._sampler = sampler
        if held_out is not None and settings.load_best_at_end:
            trainer.best_step = held_out.best_step
        self._began = 0.0
        self._seconds = 0.0
        self.interrupted = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        begins = state.global_step == self._trainer.stage.start
        if begins and self._has_eval_rows() and self._settings.eval_at_start:
            self._trainer.evaluate()

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self._trainer.step_tokens = self._trainer.step_trained_tokens = 0
        self._trainer.density_figures()
        self._began = time.perf_counter()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self._seconds = time.perf_counter() - self._began
        step, settings = state.global_step, self._settings
        # Of the stage; the next one goes on from the checkpoint written here.
        last = step >= state.max_steps
        if self._has_eval_rows() and (last or is_due(settings, step)):
            control.should_evaluate = True
        if last or step % settings.save_every == 0:
            control.should_save = True
        # A signal may have reached one process only.
        if any_over_ranks(self._stop.wanted) and step < self._total_steps:
            self.interrupted = True
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        own = self._trainer.step_tokens
        tokens, trained = sum_over_ranks([own, self._trainer.step_trained_tokens])
        record: Record = {
            **self._place(state),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "tokens": int(tokens),
            "trained_tokens": int(trained),
            "tokens_per_second": round(tokens / self._seconds, 2),
            "seconds": round(self._seconds, 4),
        }
        figures = self._trainer.density_figures() | preference_figures(logs)
        if self._sparse is not None and self._sparse.handle is not None:
            handle = self._sparse.handle
            figures["work_kept"] = handle.step_work_kept
            figures["choosing_work"] = handle.step_choosing_work
        figures = mean_over_ranks(figures, own)
        record |= {name: round(value, _DIGITS.get(name, 6)) for name, value in figures.items()}
        self._metrics.write(record)
        # For trackers, which are told after this.
        logs |= {name: value for name, value in record.items() if name not in ("step", "stage")}
        self._listener.step(record)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if metrics is None:
            return
        record: Record = {
            **self._place(state),
            "eval_loss": metrics["eval_loss"],
            "eval_tokens": metrics["eval_tokens"],
            "seconds": round(metrics["eval_seconds"], 4),
        }
        more = ("eval_density", "eval_accuracy", "eval_margin")
        record |= {name: metrics[name] for name in more if name in metrics}
        self._metrics.write(record)
        self._listener.evaluated(record)
        # All are needed for a forward pass of a base that they have divided.
        if self._sampler is not None and (is_first() or self._settings.shard_base):
            self._sampler.take(self._trainer, self._place(state))
        self._judge(state.global_step, metrics["eval_loss"], control)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self._listener.saved(self._trainer.last_checkpoint)

    def _judge(self, step: int, loss: float, control: TrainerControl) -> None:
        """Keep the best step's checkpoint, and end the run when the loss no longer falls."""
        held_out, settings = self._held_out, self._settings
        if held_out is None:
            return
        if held_out.add(step, loss) and settings.load_best_at_end:
            # Of a run that goes on, the evaluation at its former end is none: the checkpoint of
            # the best one before stays, and the last one's does anyway.
            if is_due(settings, step):
                self._trainer.best_step = step
            control.should_save = True
        if held_out.over and step < self._total_steps:
            control.should_save = control.should_training_stop = True
            self._listener.note(
                f"stopped after step {step}: the held-out loss has not fallen in "
                f"{held_out.waiting} evaluations (lowest: {held_out.best_loss:.4f} after step "
                f"{held_out.best_step})"
            )

    def _place(self, state: TrainerState) -> Record:
        stage = {"stage": self._trainer.stage.name} if self._staged else {}
        return {"step": state.global_step, **stage}

    def _has_eval_rows(self) -> bool:
        return bool(self._trainer.eval_rows)
