"""Follows the loss on the held-out rows: which step is best, and when no more is to be gained.

All of it follows from the metrics file, so a run that is resumed knows the same.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gossamer.training.loop.build import build_model
from gossamer.training.outputs.checkpoint import as_checkpoint_error, checkpoint_folder, read_stage
from gossamer.training.outputs.metrics import Record, eval_records, read_metrics
from gossamer.training.plan import StagePlan
from gossamer.training.prepare import Prepared
from gossamer.training.settings import RunSettings


class HeldOutLoss:
    """The evaluations of a stage so far; the untrained model's at its start is none of them.

    Only the last stage's count, for the model of another one could not be the result.
    """

    def __init__(self, settings: RunSettings, stage: StagePlan, records: Iterable[Record]) -> None:
        self._patience = settings.early_stop
        self._threshold = settings.early_stop_threshold
        self._start = stage.start
        self._to_beat: float | None = None
        self.best_step: int | None = None
        """The step after which the loss was lowest; None: there was no evaluation yet."""
        self.best_loss = float("inf")
        self.waiting = 0
        """Evaluations since the loss last fell by more than the threshold."""
        for record in records:
            self.add(record["step"], record["eval_loss"])

    def add(self, step: int, loss: float) -> bool:
        """Take note of an evaluation; whether it is the best so far."""
        if step <= self._start:
            return False
        if self._to_beat is None or loss < self._to_beat - self._threshold:
            self._to_beat, self.waiting = loss, 0
        else:
            self.waiting += 1
        if loss >= self.best_loss:
            return False
        self.best_step, self.best_loss = step, loss
        return True

    @property
    def over(self) -> bool:
        """Whether the run is to end here."""
        return self._patience is not None and self.waiting >= self._patience


def is_due(settings: RunSettings, step: int) -> bool:
    """Whether the held-out rows are evaluated after `step` wherever the run ends."""
    return settings.eval_every is not None and step % settings.eval_every == 0


def held_out_loss(prepared: Prepared, stage: StagePlan) -> HeldOutLoss | None:
    """What the run has measured of `stage` up to now; None in a stage that others follow."""
    if stage.index < len(prepared.stages) - 1:
        return None
    records = eval_records(read_metrics(Path(prepared.settings.output)))
    return HeldOutLoss(prepared.settings, stage, records)


def best_step(prepared: Prepared) -> int | None:
    """The step whose weights are to be the result; None: the last one's, as trained."""
    if not prepared.settings.load_best_at_end:
        return None
    held_out = held_out_loss(prepared, prepared.stages[-1])
    return None if held_out is None else held_out.best_step


def model_of_step(prepared: Prepared, step: int) -> Any:
    """The model as it was after `step`, made from its checkpoint as a resumed run makes it.

    Raises `CheckpointError`.
    """
    checkpoint = checkpoint_folder(Path(prepared.settings.output), step)
    model = build_model(
        prepared.method,
        prepared.context,
        prepared.liger,
        prepared.start_from,
        shard=prepared.settings.shard_base,
    )
    with as_checkpoint_error(checkpoint):
        return prepared.method.resume_stage(
            model, read_stage(checkpoint), checkpoint, prepared.context
        )
