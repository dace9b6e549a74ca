"""What `federated.py` has found, as a Markdown table and as a picture.

Bytes are those of a run so far, both ways, all clients together. An adapter exists at the end of a
round only, so the loss within the bytes of `fedit` is that after the last round which they pay for,
not one between two rounds; the table says how many rounds that is and what they sent.
"""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gossamer.federated.outputs.picture import loss_points

COLUMNS = (
    *("way", "seeds", "rounds", "MB, all rounds", "held-out loss", "score"),
    *("rounds within fedit's bytes", "their MB", "loss after them"),
)
SAME = (
    *("model", "data_name", "alpha", "clients", "steps", "batch_size", "rank", "rows"),
    *("test_rows", "label", "max_new_tokens", "eval_every", "base_rounds"),
)
"""What runs of one comparison have in common."""
# Told apart by people who see few colours too, with the markers.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#555555")
_MARKERS = "osD^vP*X"
Row = dict[str, Any]


def table(known: list[Row]) -> str:
    """All runs, a table for each comparison: means over the seeds, and their deviation."""
    return "\n\n".join(_one_table(rows) for rows in _comparisons(known))


def sent(row: Row) -> int:
    """All bytes of a run, both ways."""
    return sum(record.get("up", 0) + record.get("down", 0) for record in row["records"])


def within(row: Row, budget: int) -> tuple[int, int, float]:
    """The last evaluated round before more than `budget` bytes were sent: its number, the bytes up
    to then, and the held-out loss after it."""
    return [point for point in loss_points(row["records"]) if point[1] <= budget][-1]


def draw(known: list[Row], path: Path) -> None:
    """Draw the mean loss of each way against rounds and against bytes, a band of one deviation over
    the seeds around it. Against bytes a way is drawn by its longest runs; `central`, which sends
    nothing, is a level line at its last loss."""
    comparisons = _comparisons(known)
    figure = Figure(figsize=(12, 4.8 * len(comparisons)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    pairs = figure.subplots(len(comparisons), 2, sharey="row", squeeze=False)
    for (by_round, by_bytes), rows in zip(pairs, comparisons, strict=True):
        _draw_one(by_round, by_bytes, rows)
    figure.savefig(path, format=path.suffix[1:])


def _comparisons(known: list[Row]) -> list[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in known:
        found.setdefault(tuple(row[name] for name in SAME), []).append(row)
    return list(found.values())


def _groups(rows: list[Row]) -> dict[tuple[str, int], list[Row]]:
    """The runs of each way and number of rounds, one for each seed."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["way"], row["rounds"]), []).append(row)
    return found


def _one_table(rows: list[Row]) -> str:
    budgets = {row["seed"]: sent(row) for row in rows if row["way"] == "fedit"}
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 1)}"]
    for (way, rounds), group in _groups(rows).items():
        cells = [
            way if rounds in (0, group[0]["base_rounds"]) else f"{way}, for as many bytes",
            "–" if way == "base" else str(len(group)),
            str(rounds),
            "–" if way in ("base", "central") else _spread([sent(r) / 1e6 for r in group], ".1f"),
            _spread([row["eval_loss"] for row in group], ".4f"),
            _spread([100 * row["score"] for row in group], ".1f") + " %",
        ]
        sends = [r for r in group if r["seed"] in budgets and way not in ("base", "central")]
        judged = [within(row, budgets[row["seed"]]) for row in sends]
        if not judged:
            cells += ["–"] * 3
        else:
            cells += [
                _spread([number for number, _, _ in judged], ".0f"),
                _spread([total / 1e6 for _, total, _ in judged], ".1f"),
                _spread([loss for _, _, loss in judged], ".4f"),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    facts = ", ".join(f"{name} {rows[0][name]}" for name in SAME)
    score = "; ".join(sorted({row["score_name"] for row in rows}))
    before = ", ".join(sorted({f"{row['eval_loss_before']:.4f}" for row in rows}))
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    said = f"Score: {score}. Loss before: {before}. Of all runs: {facts}. {machines}"
    return "\n".join([*lines, "", said])


def _draw_one(by_round: Any, by_bytes: Any, rows: list[Row]) -> None:
    groups = _groups(rows)
    ways = list(dict.fromkeys(way for way, _ in groups if way != "base"))
    for number, way in enumerate(ways):
        look = {
            "color": _COLOURS[number % len(_COLOURS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linewidth": 1.3,
            "markersize": 5,
            "label": way,
        }
        equal = groups.get((way, rows[0]["base_rounds"]))
        if equal:
            _line(by_round, equal, look, of_bytes=False)
        longest = groups[way, max(rounds for name, rounds in groups if name == way)]
        if way == "central":
            level = mean(row["eval_loss"] for row in longest)
            by_bytes.axhline(level, color=look["color"], linestyle="--", linewidth=1.3)
        else:
            _line(by_bytes, longest, look, of_bytes=True)
    first = rows[0]
    by_round.set(
        title=f"{first['data_name']}: {first['clients']} clients, Dirichlet {first['alpha']:g}",
        xlabel="round",
        ylabel="loss, held-out rows (nats per trained token)",
    )
    by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_bytes.set(
        title="central, dashed, sends nothing" if "central" in ways else "",
        xlabel="sent by clients and server, all rounds so far (MB)",
    )
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    by_round.legend(frameon=False)


def _line(axes: Any, group: list[Row], look: dict[str, Any], *, of_bytes: bool) -> None:
    """Draw the mean over the seeds at each round, and the deviation where there are several."""
    points = list(zip(*(loss_points(row["records"]) for row in group), strict=True))
    xs = [mean((p[1] / 1e6 if of_bytes else p[0]) for p in seeds) for seeds in points]
    losses = [[loss for _, _, loss in seeds] for seeds in points]
    means = [mean(values) for values in losses]
    axes.plot(xs, means, **look)
    if len(group) > 1:
        widths = [stdev(values) for values in losses]
        low = [middle - width for middle, width in zip(means, widths, strict=True)]
        high = [middle + width for middle, width in zip(means, widths, strict=True)]
        axes.fill_between(xs, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _spread(values: list[float], form: str) -> str:
    """The mean of values, and their deviation if they differ."""
    text = f"{mean(values):{form}}"
    return text if len(set(values)) == 1 else f"{text} ± {stdev(values):{form}}"
