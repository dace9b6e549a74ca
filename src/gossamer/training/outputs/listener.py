"""The events of a run; a progress display shows them, tests listen to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.training.outputs.metrics import Record, RunResult
from gossamer.training.plan import RunPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The facts that are known once data and model are loaded."""

    method: str
    model: str
    plan: RunPlan
    data_lines: list[str]
    trainable: int
    """The number of parameters that learn."""
    total: int
    """The number of all parameters, the learning ones included."""
    dtype: str
    device: str
    learning_rate: float
    learning_rate_source: str | None = None
    """Where the learning rate comes from; None: the settings give it."""
    eval_rows: int
    resumed_from: int
    """The step of the checkpoint that the run goes on from; 0: from the start."""


class Listener:
    """Hears of the events of a run; does nothing with them."""

    def note(self, text: str) -> None:
        """The user should read `text` once."""

    def started(self, facts: RunFacts) -> None:
        """The first step is about to begin."""

    def step(self, record: Record) -> None:
        """A step is done."""

    def evaluated(self, record: Record) -> None:
        """The held-out rows have been scored."""

    def saved(self, folder: Path) -> None:
        """A checkpoint is complete."""

    def trained(self, model: Any, result: RunResult) -> None:
        """The last step is done and saved; the result is about to be written."""

    def closed(self) -> None:
        """The run is over and tells nothing more; always called, whatever happened."""


def warn(listener: Listener, text: Any) -> None:
    """Note that something is odd, though not wrong enough to stop."""
    listener.note(f"warning: {text}")
