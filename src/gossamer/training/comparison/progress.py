"""The progress of a comparison on the screen, and how much time is left."""

import time
from collections import deque
from typing import Any

from rich.console import Console

from gossamer.training.outputs.progress import duration

_RECENT = 20


class RemainingTime:
    """Estimates the seconds left of a job and of the comparison; None while nothing is known yet.

    `jobs` is the number of runs in all, `scoring` the seconds that scoring the base model took:
    until a run is finished, the best guess for scoring any other model.
    """

    def __init__(self, jobs: int, *, scoring: float) -> None:
        self._jobs = jobs
        self._scoring = scoring
        self._finished: list[float] = []
        self._elsewhere = 0
        self._steps = self._step = 0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._share_scored = 0.0

    def begin(self) -> None:
        """Note that a run begins."""
        self._steps = self._step = 0
        self._recent.clear()
        self._share_scored = 0.0

    def started(self, steps: int, at: int) -> None:
        """Note that the run has `steps` steps, `at` of which are done."""
        self._steps, self._step = steps, at

    def step(self, step: int, seconds: float) -> None:
        """Note that step number `step` took `seconds`."""
        self._step = step
        self._recent.append(seconds)

    def scored(self, done: int, total: int) -> None:
        """Note that `done` of `total` rows are scored."""
        self._step = self._steps
        self._share_scored = done / max(total, 1)

    def end(self, seconds: float | None) -> None:
        """Note that the run is over; `seconds` it took in all, None if it failed or is unknown."""
        if seconds is None:
            self._elsewhere += 1
        else:
            self._finished.append(seconds)

    def left_of_run(self) -> float | None:
        """Seconds until the run that goes on is scored."""
        training = self._training()
        if training is None:
            return None
        left = (self._steps - self._step) * training / max(self._steps, 1)
        return left + (1 - self._share_scored) * self._scoring

    def left(self) -> float | None:
        """Seconds until the last run is scored."""
        now, whole = self.left_of_run(), self._whole()
        if now is None or whole is None:
            return None
        others = self._jobs - len(self._finished) - self._elsewhere - 1
        return now + max(others, 0) * whole

    def _training(self) -> float | None:
        """The seconds that all steps of the present run take."""
        if self._recent:
            return self._steps * sum(self._recent) / len(self._recent)
        return 0.0 if self._steps and self._step >= self._steps else None

    def _whole(self) -> float | None:
        """Seconds that a run takes, from loading to scoring."""
        if self._finished:
            return sum(self._finished) / len(self._finished)
        training = self._training()
        return None if training is None else training + self._scoring


_EVERY_SECONDS = 15.0
"""The seconds between plain lines."""


class ComparisonProgress:
    """Shows the progress of jobs; `ComparisonProgress(show=False)` shows nothing."""

    def __init__(self, *, show: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(quiet=not show)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._clock = RemainingTime(0, scoring=0.0)
        self._title = ""
        self._loss: float | None = None
        self._shown_at = 0.0

    def note(self, text: str) -> None:
        """Print a line that stays."""
        # Text of users and files: no markup, no colours guessed.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def jobs(self, count: int, *, scoring: float) -> None:
        """Note that `count` runs are to come and scoring the base model took `scoring` seconds."""
        self._clock = RemainingTime(count, scoring=scoring)

    def begin(self, title: str) -> None:
        """Show that a job begins."""
        self._title, self._loss = title, None
        self._clock.begin()
        self._show(f"{title}: starting")

    def end(self, text: str, seconds: float | None = None) -> None:
        """Show that the job is over; `seconds` it took, None if it failed or was done before."""
        self._clock.end(seconds)
        self.note(f"{self._title}: {text}")

    def hear(self, event: dict[str, Any]) -> None:
        """Show the progress that the job's process reports."""
        kind = event["event"]
        if kind == "note":
            self.note(f"{self._title}: {event['text']}")
        elif kind == "started":
            self._clock.started(event["steps"], event["at"])
            self._show(f"{self._title}: step {event['at']}/{event['steps']}")
        elif kind == "step":
            self._clock.step(event["step"], event["seconds"])
            self._update(f"step {event['step']}  loss {event['loss']:.4f}")
        elif kind == "scoring":
            self._clock.scored(event["done"], event["of"])
            self._update(f"scoring {event['done']}/{event['of']}")

    def closed(self) -> None:
        """Stop showing: nothing more will come."""
        if self._status is not None:
            self._status.stop()

    def _update(self, text: str) -> None:
        if self._status is None and time.monotonic() - self._shown_at < _EVERY_SECONDS:
            return
        run, everything = self._clock.left_of_run(), self._clock.left()
        times = "" if run is None else f"  {duration(run)} left"
        times += "" if everything is None else f", {duration(everything)} for all runs"
        self._show(f"{self._title}: {text}{times}")

    def _show(self, text: str) -> None:
        self._shown_at = time.monotonic()
        if self._status is None:
            self.note(text)
            return
        from rich.text import Text

        self._status.update(Text(text))
        self._status.start()
