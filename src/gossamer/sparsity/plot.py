"""Draws a plan: what each layer drops, and how much that costs in loss."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gossamer.files import replacing
from gossamer.sparsity.plan import SparsityPlan
from gossamer.sparsity.search.sweep import Sensitivity

_COLOURS = {"mlp": "#1f6fb4", "attention": "#d9541a"}
_GROUPS = {"mlp": "MLP", "attention": "attention"}


def draw_plan(
    plan: SparsityPlan, layers: int, path: Path, *, sensitivity: Sensitivity | None = None
) -> None:
    """Draw `plan` to the PNG `path`; above it what each layer costs alone."""
    rows = 1 if sensitivity is None else 2
    figure = Figure(figsize=(8, 3 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    if sensitivity is not None:
        _draw_increases(panels[0], sensitivity)
    _draw_shares(panels[-1], plan, layers)
    panels[0].set_title(f"sparsity plan {plan.name}".strip(), parse_math=False)
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize="small", ncols=4)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")


def _draw_increases(axes: Any, sensitivity: Sensitivity) -> None:
    for group, colour in _COLOURS.items():
        shares = sorted({i.share for i in sensitivity.increases if i.group == group})
        for number, share in enumerate(shares):
            points = [i for i in sensitivity.increases if (i.group, i.share) == (group, share)]
            axes.plot(
                [point.layer for point in points],
                [point.loss for point in points],
                color=colour,
                alpha=(number + 1) / len(shares),
                marker=".",
                linewidth=1,
                label=f"{_GROUPS[group]}, {share:.0%} dropped",
            )
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_ylabel("loss increase, one layer alone")


def _draw_shares(axes: Any, plan: SparsityPlan, layers: int) -> None:
    shares = plan.all_shares(layers)
    numbers = range(layers)
    bars = {
        "MLP": ([s.mlp for s in shares], _COLOURS["mlp"], -0.25),
        "query, key": ([s.qk for s in shares], _COLOURS["attention"], 0.05),
        "value, output": ([s.vo for s in shares], "#f0b08f", 0.3),
    }
    for label, (values, colour, offset) in bars.items():
        if not any(values):
            continue
        axes.bar([n + offset for n in numbers], values, width=0.25, color=colour, label=label)
    if any(s.back for s in shares):
        axes.step(
            [n - 0.5 for n in range(layers + 1)],
            [*(s.back for s in shares), shares[-1].back],
            where="post",
            color="#2a8c5a",
            label="tokens without way back",
        )
    axes.set(xlabel="layer", ylabel="share left out", ylim=(0, 1.18))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
