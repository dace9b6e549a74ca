"""The table of a comparison in Markdown."""

from collections.abc import Sequence
from typing import Any

from gossamer.training.comparison.result import Comparison, EntryResult, Mean

_SHARES = {"exact", "last-number", "choice"}
_TITLES = {
    "loss": "loss",
    "exact": "exact answers",
    "last-number": "last number right",
    "choice": "right choice",
}


def score_title(score: str) -> str:
    """What the score is called in the table and the plots."""
    return _TITLES[score]


def table(comparison: Comparison) -> str:
    """Rows for the base model and each entry, and the reasons of failures below."""
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
    """The table with what it was made of."""
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
            "Loss: nats per token of the replies. Time: the median of a run's steps, and all of "
            "its steps; loading and scoring are not in it. Memory: the most that the process of "
            "the training held, Python and libraries included.",
            "",
        ]
    )


def percent(share: float | None, digits: int = 1) -> str:
    """`21.8 %`."""
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
    cells = [f"`{entry.label}`"]
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
