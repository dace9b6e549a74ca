"""Predicts how long things take here, from what was measured."""

from collections.abc import Sequence as List
from dataclasses import dataclass

from gossamer.serving.core.sequence import Sequence
from gossamer.serving.scheduler.step import SchedulerLimits

NEWS = 0.1
"""Weight of the latest measurement in a running mean."""


SURE = 0.5
"""Requests end sooner or later than on the mean: waiting for their places is taken to last so much
of the predicted time, so that few are refused who would have come in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Shows what runs now."""

    prompt_tokens_left: int
    """The tokens left of prompts that have been begun."""
    chunk: int
    """Prompt tokens that a step has room for beside the decodes."""
    free_places: int
    """Requests that could start at once; 0 where memory or the number of requests forbids more."""
    places: int
    """Requests that run at a time when none is free."""


def load_of(
    running: List[Sequence], limits: SchedulerLimits, fill_tokens: int, *, is_full: bool
) -> Load:
    """Return the load of those that run.

    `fill_tokens` are the virtual tokens that are still to be computed; `is_full`: somebody waits
    for whom there was no room.
    """
    decoding = sum(s.is_decoding for s in running)
    left = sum(s.num_to_compute for s in running if not s.is_decoding)
    return Load(
        prompt_tokens_left=left + fill_tokens,
        chunk=limits.max_batch_tokens - decoding,
        free_places=0 if is_full else limits.max_running - len(running),
        places=len(running) if is_full else limits.max_running,
    )


class Forecast:
    """Predicts waiting times from measured steps. Knows nothing, and predicts 0, before the first.

    A step that computes `n` prompt tokens is taken to last `a + b * n` seconds: `a` is measured on
    steps that only decode, `b` on the others.
    """

    def __init__(self) -> None:
        self._decode_seconds: float | None = None
        self._extra_seconds = 0.0
        self._extra_tokens = 0.0
        self._residence: float | None = None

    def record_step(self, *, prompt_tokens: int, seconds: float) -> None:
        """Learn from a step that has ended."""
        if not prompt_tokens:
            self._decode_seconds = _mean(self._decode_seconds, seconds)
            return
        extra = max(0.0, seconds - (self._decode_seconds or 0.0))
        is_first = not self._extra_tokens
        self._extra_seconds = extra if is_first else _mean(self._extra_seconds, extra)
        self._extra_tokens = (
            prompt_tokens if is_first else _mean(self._extra_tokens, float(prompt_tokens))
        )

    def record_residence(self, seconds: float) -> None:
        """Learn from a request that has left how long it ran."""
        self._residence = _mean(self._residence, seconds)

    @property
    def seconds_per_prompt_token(self) -> float:
        """Return `b`; 0 before any prompt was computed."""
        return self._extra_seconds / self._extra_tokens if self._extra_tokens else 0.0

    def prompt_seconds(self, tokens: int, chunk: int) -> float:
        """Predict how long `tokens` of prompts take, `chunk` in a step, beside the decodes."""
        steps = -(-tokens // max(1, chunk))
        return steps * (self._decode_seconds or 0.0) + tokens * self.seconds_per_prompt_token

    def place_seconds(self, position: int, load: Load) -> float:
        """Predict when a place is free for the request behind `position` others."""
        short = position + 1 - load.free_places
        if short <= 0 or self._residence is None:
            return 0.0
        return SURE * short * self._residence / max(1, load.places)

    def first_token_seconds(self, *, ahead: int, position: int, own: int, load: Load) -> float:
        """Predict the time from now to the first token of a prompt of `own` tokens.

        `ahead` are the prompt tokens of the `position` waiting requests before it.
        """
        computing = self.prompt_seconds(load.prompt_tokens_left + ahead + own, load.chunk)
        placing = self.place_seconds(position, load) + self.prompt_seconds(own, load.chunk)
        return max(computing, placing)


def _mean(former: float | None, latest: float) -> float:
    return latest if former is None else (1 - NEWS) * former + NEWS * latest
