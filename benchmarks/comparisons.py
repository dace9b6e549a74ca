"""Puts the runs of several comparisons into one file, a table, and a picture with error bars.

    gossamer compare ... --output FOLDER
    python benchmarks/comparisons.py --results compare.jsonl --add word-problems=FOLDER --note "..."
    python benchmarks/comparisons.py --results compare.jsonl --against lora --picture compare.png

`--add DATA=FOLDER` takes over each finished run of a folder of `gossamer compare`, under the name
that the data should have; a run that is known already is not taken again. The table has a column
for each data set: the mean of the held-out loss over the seeds, its deviation, and how many seeds
there are. With `--against METHOD` there is a second table: by how much a method is above that one
with the same seed, whose rows come in the same order. The picture shows losses, as in the first.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common import describe_machine

Row = dict[str, Any]
KEPT = ("steps", "learning_rate", "trainable", "tokens", "train_loss", "peak_memory", "seconds")
SAME = ("data", "budget", "entry", "seed")
"""What tells one run from another."""
BASE = "base model"


def main() -> None:
    """Take over what is to be added, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--add", nargs="*", default=[], metavar="DATA=FOLDER")
    parser.add_argument("--note", default="", help="what else was running, for the added runs")
    parser.add_argument("--budget", help="show only runs of this budget, such as steps=30")
    parser.add_argument("--against", metavar="METHOD", help="also tell differences to this one")
    parser.add_argument("--picture", type=Path, help="draw the losses as PNG or SVG")
    args = parser.parse_args()
    known = read(args.results)
    for each in args.add:
        name, separator, folder = each.partition("=")
        if not separator or not Path(folder, "jobs").is_dir():
            parser.error(f"--add {each}: give DATA=FOLDER, a folder of `gossamer compare`")
        for row in runs_of(name, Path(folder)):
            if not any(same(row, other) for other in known):
                known.append(row | {"note": args.note, "machine": describe_machine()})
    if args.add:
        args.results.write_text("".join(json.dumps(row) + "\n" for row in known))
    shown = [row for row in known if args.budget in (None, row["budget"])]
    print(table(shown))
    if args.against is not None:
        print("\n" + table(differences(shown, args.against)))
    if args.picture is not None:
        draw(shown, args.picture)


def read(path: Path) -> list[Row]:
    """All runs of the results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def runs_of(name: str, folder: Path) -> list[Row]:
    """The finished runs of a comparison, the base model among them."""
    rows = []
    for job in sorted((folder / "jobs").glob("*/job.json")):
        outcome = job.with_name("outcome.json")
        found = json.loads(outcome.read_text()) if outcome.exists() else {}
        if "evaluation" not in found:
            continue
        asked = json.loads(job.read_text())
        settings = asked["settings"]
        row = {
            "data": name,
            "budget": " ".join(settings["budget"]),
            "entry": asked["label"] or BASE,
            "seed": asked["seed"],
            "loss": found["evaluation"]["loss"],
            "rows": found["evaluation"]["rows"],
        }
        rows.append(row | {key: found[key] for key in KEPT if key in found})
    return rows


def same(one: Row, other: Row) -> bool:
    """Whether two rows are of one run."""
    return all(one[key] == other[key] for key in SAME)


def method_of(row: Row) -> str:
    """The entry without its rate, which differs between data sets."""
    parts = row["entry"].replace(":", ",").split(",")
    kept = [part for part in parts if not part.startswith("learning_rate=")]
    return kept[0] + (f" ({', '.join(kept[1:])})" if kept[1:] else "")


def groups(rows: list[Row]) -> tuple[list[str], dict[str, dict[str, list[Row]]]]:
    """The data sets, and the runs by method and data set; the lowest loss on the first set first,
    the base model last."""
    sets = list(dict.fromkeys(row["data"] for row in rows))
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(method_of(row), {}).setdefault(row["data"], []).append(row)

    def order(method: str) -> tuple[bool, float]:
        first = found[method].get(sets[0])
        return method == BASE, mean(r["loss"] for r in first) if first else float("inf")

    count = Counter(method.split(" (")[0] for method in found)
    return sets, {_short(method, count): found[method] for method in sorted(found, key=order)}


def _short(method: str, count: Counter[str]) -> str:
    """The method without its settings, where they tell it from no other."""
    name = method.split(" (")[0]
    return name if count[name] == 1 else method


def differences(rows: list[Row], method: str) -> list[Row]:
    """The rows with the losses above those of `method` on the same data with the same seed."""
    base = {(row["data"], row["seed"]): row["loss"] for row in rows if method_of(row) == method}
    return [
        row | {"loss": row["loss"] - base[row["data"], row["seed"]]}
        for row in rows
        if (row["data"], row["seed"]) in base and row["entry"] != BASE
    ]


def cell(runs: list[Row] | None) -> str:
    """Mean, deviation and number of seeds."""
    if not runs:
        return ""
    losses = [row["loss"] for row in runs]
    if len(losses) == 1:
        return f"{losses[0]:.3f}"
    return f"{mean(losses):.3f} ± {stdev(losses):.3f} ({len(losses)})"


def table(rows: list[Row]) -> str:
    """All methods as Markdown."""
    sets, found = groups(rows)
    lines = ["| method | " + " | ".join(sets) + " |", "| --- " * (len(sets) + 1) + "|"]
    for method, runs in found.items():
        lines.append(f"| {method} | " + " | ".join(cell(runs.get(name)) for name in sets) + " |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Draw the mean loss of each method with its deviation over the seeds, a panel a data set."""
    sets, found = groups(rows)
    methods = [method for method in reversed(found) if method != BASE]
    figure = Figure(
        figsize=(3 + 3.2 * len(sets), 1.2 + 0.3 * len(methods)), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        for height, method in enumerate(methods):
            losses = [row["loss"] for row in found[method].get(name, [])]
            if not losses:
                continue
            spread = [stdev(losses)] if len(losses) > 1 else None
            axes.errorbar(
                [mean(losses)], [height], xerr=spread, fmt="o", color="#0072b2", capsize=3
            )
            axes.plot(losses, [height] * len(losses), "|", color="#d55e00", markersize=7)
        told = [row["loss"] for row in found.get(BASE, {}).get(name, [])]
        axes.set_title(f"{name}\n(base model {mean(told):.3f})" if told else name, fontsize=10)
        axes.set_xlabel("held-out loss (nats per token)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(methods)), methods)
    figure.savefig(path, format=path.suffix[1:])


if __name__ == "__main__":
    main()
