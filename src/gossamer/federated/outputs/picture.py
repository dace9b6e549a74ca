"""Draws held-out losses of federated runs, by round and by what was sent."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gossamer.files import replacing
from gossamer.training.outputs.metrics import eval_records, train_records

# Told apart by people who see few colours too, with the markers.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#555555")
_MARKERS = "osD^vP*X"


def draw_rounds(runs: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw the runs, the records of each by its label, to the PNG or SVG `path`.

    Where there are no held-out rows the training losses are drawn.
    """
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    held_out = any(eval_records(list(records)) for records in runs.values())
    for number, (label, records) in enumerate(runs.items()):
        points = loss_points(records)
        look = {
            "color": _COLOURS[number % len(_COLOURS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linewidth": 1.3,
            "markersize": 5,
            "label": label,
        }
        losses = [loss for _, _, loss in points]
        by_round.plot([rounds for rounds, _, _ in points], losses, **look)
        by_bytes.plot([sent / 1e6 for _, sent, _ in points], losses, **look)
    kind = "held-out rows" if held_out else "training"
    by_round.set(xlabel="round", ylabel=f"loss, {kind} (nats per trained token)")
    by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_bytes.set(xlabel="sent by clients and server, all rounds so far (MB)")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for text in by_round.legend(frameon=False).get_texts():
        # A name may hold a dollar sign, which would begin a formula.
        text.set_parse_math(False)
    with replacing(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:] or "png")


def loss_points(records: Sequence[dict[str, Any]]) -> list[tuple[int, int, float]]:
    """Return (round, bytes sent up to then, loss) of each evaluation, or without one of each
    round."""
    rounds = train_records(list(records))
    totals = list(accumulate(record["up"] + record["down"] for record in rounds))
    sent = {record["step"]: total for record, total in zip(rounds, totals, strict=True)}
    evals = eval_records(list(records))
    if evals:
        return [(r["step"], sent.get(r["step"], 0), r["eval_loss"]) for r in evals]
    return [(r["step"], sent[r["step"]], r["loss"]) for r in rounds]
