"""What came out of a comparison, seeds put together."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A figure over several seeds."""

    value: float
    spread: float | None
    """Standard deviation between the seeds (n - 1); None for one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Mean and spread of at least one value."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(value=statistics.fmean(values), spread=spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryResult:
    """One entry of `--methods`: what its finished runs came to, and why others failed."""

    label: str
    method: str
    runs: dict[int, dict[str, Any]]
    """Figures of each finished run, by seed."""
    failures: dict[int, str] = field(default_factory=dict)
    """Why a run failed, by seed."""

    @property
    def score(self) -> Mean | None:
        """The score; None without a finished run."""
        return self._mean(lambda run: run["evaluation"]["value"])

    @property
    def loss(self) -> Mean | None:
        """Loss on the held-out rows, nats per token."""
        return self._mean(lambda run: run["evaluation"]["loss"])

    @property
    def likeliest(self) -> Mean | None:
        """Share of rows whose answer is the most probable option; None without options."""
        if any(run["evaluation"]["likeliest"] is None for run in self.runs.values()):
            return None
        return self._mean(lambda run: run["evaluation"]["likeliest"])

    @property
    def trainable(self) -> Mean | None:
        """Parameters that learn."""
        return self._mean(lambda run: run["trainable"])

    @property
    def peak_memory(self) -> Mean | None:
        """Bytes: the most that the process of the training held."""
        return self._mean(lambda run: run["peak_memory"])

    @property
    def seconds(self) -> Mean | None:
        """Time in training steps."""
        return self._mean(lambda run: run["seconds"])

    @property
    def step_seconds(self) -> Mean | None:
        """Median time of a step."""
        return self._mean(lambda run: run["median_step_seconds"])

    def _mean(self, figure: Any) -> Mean | None:
        values = [float(figure(run)) for run in self.runs.values()]
        return Mean.of(values) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All results of a comparison."""

    output: Path
    score: str
    """loss, exact, last-number or choice."""
    base: dict[str, Any]
    """The evaluation of the base model."""
    entries: list[EntryResult]
    facts: dict[str, Any]
    """Rows, steps, versions, hashes of data and base model."""
    settings: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether a run failed."""
        return any(entry.failures for entry in self.entries)

    def as_record(self) -> dict[str, Any]:
        """Plain values for `results.json`."""
        figures = ("score", "loss", "trainable", "peak_memory", "seconds", "step_seconds")
        return {
            "score": self.score,
            "base": self.base,
            "entries": [
                {
                    "label": entry.label,
                    "method": entry.method,
                    **{name: _plain(getattr(entry, name)) for name in figures},
                    "runs": {str(seed): run for seed, run in entry.runs.items()},
                    "failures": {str(seed): why for seed, why in entry.failures.items()},
                }
                for entry in self.entries
            ],
            "facts": self.facts,
            "settings": self.settings,
        }


def _plain(mean: Mean | None) -> dict[str, Any] | None:
    return None if mean is None else asdict(mean)
