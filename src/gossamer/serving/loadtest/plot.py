"""Draws a load test: who waited how long, and when."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gossamer.files import replacing
from gossamer.serving.loadtest.outcomes import Sample

_IN_TIME, _LATE, _LOST, _LINE = "#1f6fb4", "#d9541a", "#444444", "#666666"


def draw(samples: Sequence[Sample], slo: float, path: Path, *, title: str) -> None:
    """Draw first-token latency over time of arrival, and its distribution, as the PNG `path`."""
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    over_time, shares = figure.subplots(1, 2)
    figure.suptitle(title, parse_math=False)
    _scatter(over_time, samples, slo)
    _distribution(shares, samples, slo)
    for axes in (over_time, shares):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")


def _scatter(axes: Any, samples: Sequence[Sample], slo: float) -> None:
    done = [s for s in samples if s.outcome == "finished" and s.first_token_seconds is not None]
    for label, colour, chosen in (
        (f"within {slo:g} s", _IN_TIME, [s for s in done if _first(s) < slo]),
        ("later", _LATE, [s for s in done if _first(s) >= slo]),
    ):
        if chosen:
            points = [s.due for s in chosen], [_first(s) for s in chosen]
            axes.plot(*points, "o", color=colour, markersize=3, alpha=0.6, label=label)
    lost = [s.due for s in samples if s.outcome != "finished"]
    if lost:
        axes.plot(lost, [0.0] * len(lost), "x", color=_LOST, markersize=4, label="no answer")
    if any(_first(s) > slo / 2 for s in done):
        axes.axhline(slo, color=_LINE, linewidth=1, linestyle="--")
    axes.set(xlabel="arrival (s)", ylabel="first token after (s)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _distribution(axes: Any, samples: Sequence[Sample], slo: float) -> None:
    done = [s for s in samples if s.outcome == "finished" and s.first_token_seconds is not None]
    for label, colour, values in (
        ("first token", _IN_TIME, sorted(_first(s) for s in done)),
        ("whole answer", _LATE, sorted(s.seconds for s in done)),
    ):
        # Of all requests: a curve that ends below 1 tells of those without an answer.
        heights = [(i + 1) / len(samples) for i in range(len(values))]
        axes.step(values, heights, where="post", color=colour, label=label)
    if any(s.seconds > slo / 2 for s in done):
        axes.axvline(slo, color=_LINE, linewidth=1, linestyle="--")
    axes.set(xlabel="seconds from arrival", ylabel="share of all requests", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right")


def _first(sample: Sample) -> float:
    assert sample.first_token_seconds is not None
    return sample.first_token_seconds
