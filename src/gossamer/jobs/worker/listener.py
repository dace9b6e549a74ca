"""What a run says, as events of its job. Metrics are not: they stand in the run's own file."""

import time
from collections.abc import Callable
from pathlib import Path

from gossamer.errors import StorageError
from gossamer.jobs.store.attempts import AttemptTable
from gossamer.jobs.store.events import Level
from gossamer.training.outputs.checkpoint import step_of
from gossamer.training.outputs.listener import Listener, RunFacts

_PATIENCE = 60.0
"""Seconds in which a database that is away may come back."""


class JobLostError(Exception):
    """The job has been given to another attempt, or is over: nothing may be published."""


class JobListener(Listener):
    """Tells the database; raises `JobLostError` in the run when the job is not its own any more."""

    def __init__(self, attempts: AttemptTable, job_id: str, attempt: int) -> None:
        self._attempts = attempts
        self._key = (job_id, attempt)

    def note(self, text: str) -> None:
        """Pass on a note or a warning; what an earlier attempt has told is not repeated."""
        level: Level = "warn" if text.startswith("warning: ") else "info"
        message = text.removeprefix("warning: ")
        self._tell(lambda: self._attempts.note(*self._key, message, level=level))

    def started(self, facts: RunFacts) -> None:
        """Tell that training begins or goes on."""
        self.announce(facts.plan.steps, facts.resumed_from)

    def saved(self, folder: Path) -> None:
        """Tell of a checkpoint that is on the disk."""
        self.checkpoint(step_of(folder))

    def announce(self, steps: int | None, resumed_from: int) -> None:
        """Tell that the work begins, or goes on from a step; `steps` is None where it has none."""
        self._tell(
            lambda: self._attempts.announce(*self._key, steps=steps, resumed_from=resumed_from)
        )

    def checkpoint(self, step: int) -> None:
        """Tell that the work could go on from that step."""
        self._tell(lambda: self._attempts.saved(*self._key, step))

    def _tell(self, say: Callable[[], bool]) -> None:
        """Say something, again while the database is away: a run is worth some waiting."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                told = say()
                break
            except StorageError:
                if time.monotonic() > until:
                    raise
                time.sleep(1.0)
        if not told:
            raise JobLostError(self._key[0])
