"""Draws `curve.png`: the losses of a run."""

from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gossamer.files import replacing
from gossamer.training.outputs.metrics import Record, eval_records, stage_records, train_records

_TRAIN, _EVAL, _STAGE = "#1f6fb4", "#d9541a", "#666666"


def smooth(values: list[float]) -> list[float]:
    """An exponential moving average over about a twentieth of the values, with no lag at first.

    y_t = sum_i d^(t-i) x_i / sum_i d^(t-i).
    """
    decay = 1.0 - 1.0 / max(2.0, len(values) / 20)
    sums = accumulate(values, lambda total, value: decay * total + value)
    weights = accumulate([1.0] * len(values), lambda total, one: decay * total + one)
    return [total / weight for total, weight in zip(sums, weights, strict=True)]


def draw_loss_curve(records: list[Record], path: Path, *, title: str) -> None:
    """Draw training loss (thin: each step, thick: smoothed) and evaluations to the PNG `path`."""
    figure = Figure(figsize=(8, 4.5), dpi=120)
    # A layout that measures all texts takes as long as to draw them.
    figure.subplots_adjust(left=0.125, right=0.98, bottom=0.12, top=0.92)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train, evals = train_records(records), eval_records(records)
    steps = [record["step"] for record in train]
    losses = [record["loss"] for record in train]
    axes.plot(steps, losses, color=_TRAIN, linewidth=0.8, alpha=0.35, label="training, each step")
    axes.plot(steps, _smooth_stages(train), color=_TRAIN, linewidth=2, label="training, smoothed")
    _mark_stages(axes, stage_records(records))
    if evals:
        points = [record["step"] for record in evals], [record["eval_loss"] for record in evals]
        axes.plot(*points, "o-", color=_EVAL, linewidth=1.2, markersize=5, label="held-out rows")
    # A name may hold a dollar sign, which would begin a formula.
    axes.set_title(title, parse_math=False)
    axes.set(xlabel="step", ylabel="loss (nats per trained token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")


def _smooth_stages(train: list[Record]) -> list[float]:
    """Smooth stage by stage: what one has learnt is not carried over into the next."""
    stages = groupby(train, key=lambda record: record.get("stage"))
    return [value for _, stage in stages for value in smooth([r["loss"] for r in stage])]


def _mark_stages(axes: Any, stages: list[Record]) -> None:
    """Draw a line where each stage begins, the first excepted, and the names of all."""
    for stage in stages:
        if stage["step"] > 0:
            axes.axvline(stage["step"] + 0.5, color=_STAGE, linewidth=1, linestyle="--")
        axes.annotate(
            stage["stage"],
            (stage["step"] + 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            verticalalignment="top",
            color=_STAGE,
            fontsize="small",
        )
