"""Draws `scores.png` and `curves.png`: what each method brings, against what it costs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gossamer.files import replacing
from gossamer.training.comparison.entries import Entry
from gossamer.training.comparison.folder import Layout
from gossamer.training.comparison.results import Comparison, EntryResult, Mean, score_title
from gossamer.training.outputs.loss_curve import smooth
from gossamer.training.outputs.metrics import read_metrics, train_records

# Told apart by people who see few colours too, with the markers.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#555555")
_MARKERS = "osD^vP*X"
_PANELS: tuple[tuple[str, str, Callable[[EntryResult], Mean | None], float], ...] = (
    ("trained parameters", "log", lambda entry: entry.trainable, 1),
    ("peak memory (GiB)", "linear", lambda entry: entry.peak_memory, 2**30),
    ("training time (s)", "linear", lambda entry: entry.seconds, 1),
)


def draw_scores(comparison: Comparison, path: Path) -> None:
    """Draw the score against trained parameters, memory and time, side by side."""
    figure = _figure(12, 4.6)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    base = comparison.base["value"]
    for axes, (title, scale, cost, unit) in zip(panels, _PANELS, strict=True):
        axes.axhline(base, color="#888888", linestyle="--", linewidth=1, label="base model")
        best = [entry for entry in comparison.entries if comparison.is_best(entry)]
        for number, entry in enumerate(best):
            _point(axes, entry, cost(entry), unit, number)
        axes.set_xscale(scale)
        axes.set_xlabel(title)
        axes.margins(x=0.12, y=0.12)
        if scale == "linear":
            axes.set_xlim(left=0)
        _plain_axes(axes)
    panels[0].set_ylabel(f"{score_title(comparison.score)}{_direction(comparison)}")
    if comparison.score != "loss":
        bottom, top = panels[0].get_ylim()
        panels[0].set_ylim(bottom=max(bottom, -0.03 * top))
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    _legend(figure, panels[0])
    _save(figure, path)


def draw_curves(comparison: Comparison, layout: Layout, entries: list[Entry], path: Path) -> None:
    """Draw the smoothed training losses of all runs, by step and by time."""
    figure = _figure(12, 4.6)
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for number, entry in enumerate(entries):
        colour = _COLOURS[number % len(_COLOURS)]
        style = ("-", "--", ":")[number // len(_COLOURS) % 3]
        for index, seed in enumerate(comparison.settings["seeds"]):
            steps = train_records(read_metrics(layout.run(entry, seed)))
            if not steps:
                continue
            losses = smooth([record["loss"] for record in steps])
            look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.6}
            look["alpha"] = 0.9 if len(comparison.settings["seeds"]) == 1 else 0.55
            look["label"] = None if index else entry.label
            by_step.plot([record["step"] for record in steps], losses, **look)
            by_time.plot(_elapsed([record["seconds"] for record in steps]), losses, **look)
    by_step.set(xlabel="step", ylabel="training loss, smoothed (nats per token)")
    by_step.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_time.set(xlabel="time in steps (s)")
    for axes in (by_step, by_time):
        _plain_axes(axes)
    _legend(figure, by_step)
    _save(figure, path)


def _point(axes: Any, entry: EntryResult, cost: Mean | None, unit: float, number: int) -> None:
    score = entry.score
    if cost is None or score is None:
        return
    axes.errorbar(
        [cost.value / unit],
        [score.value],
        yerr=None if score.spread is None else [score.spread],
        xerr=None if cost.spread is None else [cost.spread / unit],
        fmt=_MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
        color=_COLOURS[number % len(_COLOURS)],
        markersize=8,
        capsize=3,
        linewidth=1.2,
        label=entry.label,
    )


def _direction(comparison: Comparison) -> str:
    if comparison.score == "loss":
        return " on held-out rows (lower is better)"
    return f" of {comparison.base['rows']:,} replies"


def _elapsed(seconds: list[float]) -> list[float]:
    total, times = 0.0, []
    for value in seconds:
        total += value
        times.append(total)
    return times


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain_axes(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = figure.legend(handles, labels, loc="outside right center", frameon=False)
        # A value may hold a dollar sign, which would begin a formula.
        for text in legend.get_texts():
            text.set_parse_math(False)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")
