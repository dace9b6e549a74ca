"""The progress of a comparison on the screen: a line that is redrawn, or plain lines elsewhere."""

import time
from typing import Any

from rich.console import Console

from gossamer.training.comparison.clock import Clock
from gossamer.training.screen import duration

_EVERY_SECONDS = 15.0
"""Between plain lines."""


class Screen:
    """Hears of jobs and shows them; `Screen(show=False)` shows nothing."""

    def __init__(self, *, show: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(quiet=not show)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._clock = Clock(0, scoring=0.0)
        self._title = ""
        self._loss: float | None = None
        self._shown_at = 0.0

    def note(self, text: str) -> None:
        """A line that stays."""
        # Text of users and files: no markup, no colours guessed.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def jobs(self, count: int, *, scoring: float) -> None:
        """So many runs are to come; scoring the base model took so many seconds."""
        self._clock = Clock(count, scoring=scoring)

    def begin(self, title: str) -> None:
        """A job begins."""
        self._title, self._loss = title, None
        self._clock.begin()
        self._show(f"{title}: starting")

    def end(self, text: str, seconds: float | None = None) -> None:
        """The job is over; `seconds` it took, None if it failed or was done before."""
        self._clock.end(seconds)
        self.note(f"{self._title}: {text}")

    def hear(self, event: dict[str, Any]) -> None:
        """Progress of the job, as its process tells it."""
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
        """Nothing more will come."""
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
