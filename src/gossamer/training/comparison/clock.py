"""How much time is left. Pure arithmetic on what jobs took."""

from collections import deque

_RECENT = 20


class Clock:
    """Seconds left of a job and of the whole comparison; None while nothing is known yet.

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
        """A run begins."""
        self._steps = self._step = 0
        self._recent.clear()
        self._share_scored = 0.0

    def started(self, steps: int, at: int) -> None:
        """It has `steps` steps, `at` of which are done."""
        self._steps, self._step = steps, at

    def step(self, step: int, seconds: float) -> None:
        """Step number `step` took so many seconds."""
        self._step = step
        self._recent.append(seconds)

    def scored(self, done: int, total: int) -> None:
        """So many of the rows are scored."""
        self._step = self._steps
        self._share_scored = done / max(total, 1)

    def end(self, seconds: float | None) -> None:
        """The run is over; `seconds` it took in all, None if it failed or nobody knows."""
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
        """Seconds of all steps of the run that goes on."""
        if self._recent:
            return self._steps * sum(self._recent) / len(self._recent)
        return 0.0 if self._steps and self._step >= self._steps else None

    def _whole(self) -> float | None:
        """Seconds that a run takes, from loading to scoring."""
        if self._finished:
            return sum(self._finished) / len(self._finished)
        training = self._training()
        return None if training is None else training + self._scoring
