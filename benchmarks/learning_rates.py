"""Finds a method's learning rate: short runs at rates around a first guess, by held-out loss.

    python benchmarks/learning_rates.py --results rates.jsonl --data-name arithmetic \
        --train TRAIN.jsonl --test TEST.jsonl --steps 40 lora smt:block_size=64

Rates are those of a ladder of half decades: 1e-4, 3e-4, 1e-3. The search begins at the rate that
the entry names (`lora:learning_rate=1e-3`), else at the best one that the results file knows of the
entry, else at the method's own, tries both neighbours, and goes on as long as the best is at an
edge. Each finished run is a line of the results file, and no run that is there is done again: a
killed search is continued by the same command. `--rates` gives the rates instead, `--table` prints
what is known.
"""

import argparse
import gc
import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import describe_machine
from gossamer import methods
from gossamer.errors import TrainingError
from gossamer.training.comparison.entries import Entry, parse_entries
from gossamer.training.outputs.listener import Listener
from gossamer.training.run import tune
from short_rows import short_rows

LADDER = [float(f"{digit}e{power}") for power in range(-7, 1) for digit in (1, 3)]
Row = dict[str, Any]


def main() -> None:
    """Search the rate of each entry in turn."""
    args = parse_args()
    known = read_results(args.results)
    if args.table:
        print(table(known))
        return
    for entry in parse_entries(args.entries):
        search(entry, args, known)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entries", nargs="*", help="as for `gossamer compare --methods`")
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--table", action="store_true", help="print what is known and stop")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data-name", default="", help="what the results call the data")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--test-rows", type=int, default=36)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--longest", type=int, default=96, help="tokens of the rows that are used")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", help="rates to try instead of a search: 1e-3,3e-3")
    parser.add_argument("--most", type=int, default=6, help="runs of a search at most")
    args = parser.parse_args()
    if not args.table and not (args.entries and args.train and args.test and args.data_name):
        parser.error("give entries, --data-name, --train and --test, or --table")
    return args


def search(entry: Entry, args: argparse.Namespace, known: list[Row]) -> None:
    """Try rates until the best has a worse one on either side, or `--most` are tried."""

    def loss(rate: float) -> float:
        """The held-out loss at `rate`; infinite if the run failed."""
        row = next((row for row in known if is_same(row, wanted(entry, rate, args))), None)
        if row is None:
            row = measure(entry, rate, args)
            known.append(row)
            with args.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(f"{entry.label} {args.data_name} {rate:g}: {row['loss']}", flush=True)
        return math.inf if row["loss"] is None else float(row["loss"])

    if args.rates:
        for rate in args.rates.split(","):
            loss(float(rate))
        return
    climb(loss, nearest_rung(first_guess(entry, args, known)), most=args.most)


def climb(loss: Callable[[float], float], start: int, *, most: int) -> None:
    """Call `loss` for rungs of the ladder until one has a worse neighbour on both sides."""
    tried = {start: loss(LADDER[start])}
    while len(tried) < most:
        best = min(tried, key=lambda rung: tried[rung])
        missing = [rung for rung in (best + 1, best - 1) if rung not in tried]
        missing = [rung for rung in missing if 0 <= rung < len(LADDER)]
        if not missing:
            return
        tried[missing[0]] = loss(LADDER[missing[0]])


def nearest_rung(rate: float) -> int:
    """The index of the rate of the ladder that is nearest in ratio."""
    return min(range(len(LADDER)), key=lambda rung: abs(math.log(LADDER[rung] / rate)))


def first_guess(entry: Entry, args: argparse.Namespace, known: list[Row]) -> float:
    """The rate to begin with."""
    if "learning_rate" in entry.run:
        return float(entry.run["learning_rate"])
    same = [
        row
        for row in known
        if row["entry"] == name_of(entry) and row["model"] == args.model and row["loss"] is not None
    ]
    # Nearest first: the same data, then the nearest number of steps.
    same.sort(
        key=lambda row: (
            row["data"] != args.data_name,
            abs(row["steps"] - args.steps),
            row["loss"],
        )
    )
    return float(same[0]["rate"]) if same else float(methods.default_rate(entry.method).narrow)


def name_of(entry: Entry) -> str:
    """The entry without its rate."""
    parts = [f"{key}={value}" for key, value in sorted(entry.given.items())]
    return f"{entry.method}:{','.join(parts)}" if parts else entry.method


def wanted(entry: Entry, rate: float, args: argparse.Namespace) -> Row:
    """What tells one run from another."""
    return {
        "model": args.model,
        "data": args.data_name,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "test_rows": args.test_rows,
        "longest": args.longest,
        "entry": name_of(entry),
        "rate": rate,
    }


def is_same(row: Row, asked: Row) -> bool:
    """Whether `row` is the result of the run `asked`."""
    return all(
        math.isclose(row[key], value) if key == "rate" else row.get(key) == value
        for key, value in asked.items()
    )


def measure(entry: Entry, rate: float, args: argparse.Namespace) -> Row:
    """One run; one that diverges has no loss, and says why."""
    began = time.monotonic()
    row: Row = {**wanted(entry, rate, args), "loss": None, "machine": describe_machine()}
    row["commit"] = commit()
    with tempfile.TemporaryDirectory(prefix="rates-") as scratch:
        train, test = Path(scratch) / "train.jsonl", Path(scratch) / "test.jsonl"
        train.write_text("".join(short_rows(args.train, args.model, args.longest)))
        test.write_text("".join(short_rows(args.test, args.model, args.longest)[: args.test_rows]))
        output = Path(scratch) / "run"
        try:
            result = tune(
                args.model,
                train,
                output,
                method=entry.method,
                eval_data=str(test),
                eval_at_start=False,
                chat_template=False,
                max_steps=args.steps,
                save_every=args.steps,
                batch_size=args.batch_size,
                learning_rate=rate,
                seed=args.seed,
                listener=Listener(),
                **{**entry.given, **{k: v for k, v in entry.run.items() if k != "learning_rate"}},
            )
            row["loss"] = result.eval_loss
            row["train_loss"] = result.train_loss
            row["trainable"] = result.trainable
            row["tokens"] = result.tokens
            row["step_seconds"] = round(result.seconds / result.steps, 3)
        except TrainingError as error:
            row["failure"] = str(error)
        shutil.rmtree(output, ignore_errors=True)
    gc.collect()
    row["seconds"] = round(time.monotonic() - began, 1)
    row["threads"] = torch.get_num_threads()
    return row


def commit() -> str:
    """The commit of the package that is measured, a plus behind it if files are changed."""
    package = Path(methods.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


def read_results(path: Path) -> list[Row]:
    """All lines of the results file; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(known: list[Row]) -> str:
    """Markdown: for each entry, data and number of steps the losses by rate, the best in bold."""
    groups: dict[tuple[Any, ...], dict[float, list[Row]]] = {}
    for row in known:
        key = (row["entry"], row["data"], row["steps"])
        groups.setdefault(key, {}).setdefault(row["rate"], []).append(row)
    lines = [
        "| method | data | steps | weights that learn | held-out loss by learning rate |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (entry, data, steps), rates in sorted(groups.items()):
        means = {rate: mean_loss(rows) for rate, rows in sorted(rates.items())}
        best = min(means.values())
        cells = [
            f"{rate:g}: " + (f"**{loss:.4f}**" if loss == best else f"{loss:.4f}")
            for rate, loss in means.items()
        ]
        sizes = [row["trainable"] for rows in rates.values() for row in rows if "trainable" in row]
        size = f"{max(sizes):,}" if sizes else ""
        lines.append(f"| `{entry}` | {data} | {steps} | {size} | {', '.join(cells)} |")
    return "\n".join(lines)


def mean_loss(rows: list[Row]) -> float:
    """The mean over the seeds; infinite if a run failed."""
    losses = [math.inf if row["loss"] is None else row["loss"] for row in rows]
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
