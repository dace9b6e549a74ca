"""One picture of the training losses of all personas, from their `metrics.jsonl`."""

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SMOOTHING = 0.7


def draw_curves(runs: Mapping[str, Path], path: Path) -> Path:
    """Write the picture to `path`: each step thin, the moving average thick."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, folder in runs.items():
        steps, losses = losses_by_step(folder)
        (line,) = axes.plot(steps, _smooth(losses), linewidth=2, label=name)
        axes.plot(steps, losses, linewidth=0.8, alpha=0.3, color=line.get_color())
    axes.set(xlabel="step", ylabel="training loss (nats per token)")
    axes.set_title("Training loss of the personas; thin: each step, thick: moving average")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    return path


def losses_by_step(run: Path) -> tuple[list[int], list[float]]:
    """Steps of the run in that folder, and the training loss of each."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if "loss" in record]
    return [record["step"] for record in steps], [record["loss"] for record in steps]


def _smooth(values: list[float]) -> list[float]:
    smoothed: list[float] = []
    for value in values:
        last = smoothed[-1] if smoothed else value
        smoothed.append(SMOOTHING * last + (1 - SMOOTHING) * value)
    return smoothed
