"""The results of a comparison, seeds put together, and their table in Markdown."""

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
        """Compute the mean and spread of at least one value."""
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
    rates_of: str | None = None
    """What the user wrote, where that gave several learning rates and this is one of them."""

    @property
    def score(self) -> Mean | None:
        """The mean score; None without a finished run."""
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
        """The number of parameters that learn."""
        return self._mean(lambda run: run["trainable"])

    @property
    def peak_memory(self) -> Mean | None:
        """The most bytes that the process of the training held."""
        return self._mean(lambda run: run["peak_memory"])

    @property
    def seconds(self) -> Mean | None:
        """The time spent in training steps."""
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
    """The kind of score: loss, exact, last-number or choice."""
    base: dict[str, Any]
    """The evaluation of the base model."""
    entries: list[EntryResult]
    facts: dict[str, Any]
    """Facts of the comparison: rows, steps, versions, hashes of data and base model."""
    settings: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether a run failed."""
        return any(entry.failures for entry in self.entries)

    def is_best(self, entry: EntryResult) -> bool:
        """Whether `entry` has the lowest held-out loss of those that differ by their rate alone.

        True for an entry with one rate; False for one of which no run finished, beside others.
        """
        rivals = [e for e in self.entries if entry.rates_of and e.rates_of == entry.rates_of]
        losses = [rival.loss.value for rival in rivals if rival.loss is not None]
        if not rivals:
            return True
        return entry.loss is not None and entry.loss.value == min(losses)

    def as_record(self) -> dict[str, Any]:
        """Return plain values for `results.json`."""
        figures = ("score", "loss", "trainable", "peak_memory", "seconds", "step_seconds")
        return {
            "score": self.score,
            "base": self.base,
            "entries": [
                {
                    "label": entry.label,
                    "method": entry.method,
                    "rates_of": entry.rates_of,
                    "best_rate": self.is_best(entry),
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


_SHARES = {"exact", "last-number", "choice"}
_TITLES = {
    "loss": "loss",
    "exact": "exact answers",
    "last-number": "last number right",
    "choice": "right choice",
}


def score_title(score: str) -> str:
    """The name of the score in the table and the plots."""
    return _TITLES[score]


def table(comparison: Comparison) -> str:
    """Write the table: a row for the base model and each entry, reasons of failures below."""
    shares = comparison.score in _SHARES
    likelihood = comparison.base["likeliest"] is not None
    columns = ["method", *([score_title(comparison.score)] if shares else [])]
    columns += ["likeliest option right"] if likelihood else []
    columns += ["held-out loss", "trained parameters", "learning rate", "steps"]
    columns += ["time of a step", "training time", "peak memory"]
    rows = [_base(comparison, shares=shares, likelihood=likelihood, width=len(columns))]
    for entry in comparison.entries:
        rows.append(_row(entry, comparison, shares=shares, likelihood=likelihood))
    lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    reasons = [
        f"- `{entry.label}`, seed {seed}: {reason}"
        for entry in comparison.entries
        for seed, reason in entry.failures.items()
    ]
    return "\n".join([*lines, *(["", "Failed:", "", *reasons] if reasons else []), ""])


def document(comparison: Comparison) -> str:
    """Write the document: the table with what it was made of."""
    facts, settings = comparison.facts, comparison.settings
    seeds = settings["seeds"]
    spread = "; mean ± standard deviation between seeds" if len(seeds) > 1 else ""
    passes = facts["steps"] * facts["rows_per_step"] / facts["train_rows"]
    course = (
        f"as many steps of {facts['rows_per_step']} rows as fit the time"
        if any(text.startswith("minutes") for text in settings["budget"])
        else f"{facts['steps']} steps of {facts['rows_per_step']} rows ({passes:.2g} passes)"
    )
    return "\n".join(
        [
            f"# Comparison on {settings['model']}",
            "",
            f"{facts['train_rows']:,} rows of {settings['data']}, {course}; scored on "
            f"{facts['eval_rows']:,} rows of {settings['eval']}; "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}{spread}.",
            "",
            table(comparison).rstrip(),
            "",
            "![scores](scores.png)",
            "",
            "![losses](curves.png)",
            "",
            *_about_rates(comparison),
            "Loss: nats per token of the replies. Time: the median of a run's steps, and all of "
            "its steps; loading and scoring are not in it. Memory: the most that the process of "
            "the training held, Python and libraries included.",
            "",
        ]
    )


def _about_rates(comparison: Comparison) -> list[str]:
    if not any(entry.rates_of for entry in comparison.entries):
        return []
    return [
        "Best rate: the one with the lowest held-out loss of those that its entry gave; the first "
        "picture shows only these. It was chosen by the rows that it is reported on, which favours "
        "entries with more rates.",
        "",
    ]


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share as `21.8 %`."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _base(comparison: Comparison, *, shares: bool, likelihood: bool, width: int) -> list[str]:
    base = comparison.base
    cells = ["base model", *([_share(Mean.of([base["value"]]))] if shares else [])]
    cells += [percent(base["likeliest"])] if likelihood else []
    cells += [f"{base['loss']:.4f}", "0"]
    return cells + [""] * (width - len(cells))


def _row(
    entry: EntryResult, comparison: Comparison, *, shares: bool, likelihood: bool
) -> list[str]:
    best = " **best rate**" if entry.rates_of and comparison.is_best(entry) else ""
    cells = [f"`{entry.label}`{best}"]
    cells += [_share(entry.score)] if shares else []
    cells += [_share(entry.likeliest)] if likelihood else []
    first = next(iter(entry.runs.values()), None)
    return [
        *cells,
        _figure(entry.loss, 1, "", 4) if entry.runs else "failed",
        _whole(entry.trainable, first),
        f"{first['learning_rate']:g}" if first else "",
        f"{first['steps']:,}" if first else "",
        _figure(entry.step_seconds, 1, " s", 3),
        _figure(entry.seconds, 1, " s", 0),
        _figure(entry.peak_memory, 2**30, " GiB", 2),
    ]


def _share(mean: Mean | None) -> str:
    if mean is None:
        return ""
    spread = "" if mean.spread is None else f" ± {100 * mean.spread:.1f}"
    return f"{100 * mean.value:.1f}{spread} %"


def _figure(mean: Mean | None, unit: float, suffix: str, digits: int) -> str:
    if mean is None:
        return ""
    spread = "" if mean.spread is None else f" ± {mean.spread / unit:.{digits}f}"
    return f"{mean.value / unit:,.{digits}f}{spread}{suffix}"


def _whole(mean: Mean | None, run: dict[str, Any] | None) -> str:
    if mean is None or run is None:
        return ""
    return f"{round(mean.value):,} ({100 * mean.value / run['total']:.2f} %)"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
