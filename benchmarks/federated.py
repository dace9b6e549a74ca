"""Federated ways to learn against bytes: held-out loss and score after equal rounds, and bytes.

    python benchmarks/federated.py --results federated.jsonl --data-name boolq --label answer \
        --train TRAIN.jsonl --test TEST.jsonl --rounds 10 --steps 5 --seeds 0 1 2

Clients get the rows of each class of the column `--label` in proportions drawn from a Dirichlet
distribution. Every way is run for as many rounds; one that sends less than `fedit` is run once more
for as many rounds as cost the bytes of `fedit`. `central` is one machine with all rows, which takes
as many steps in a round as all clients together. SLoRA without sparse rounds is `fedit`.

Each finished run is a line of the results file, and no run that is there is done again: a killed
benchmark is continued by the same command. `--table` prints what is known as Markdown, with
`--picture FILE` the losses of the first seed by rounds and by bytes.
"""

import argparse
import gc
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from peft import PeftModel

import gossamer.tuners  # noqa: F401
from common import describe_machine
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.federated.outputs.picture import draw_rounds, loss_points
from gossamer.federated.outputs.record import FederatedResult
from gossamer.federated.run import simulate
from gossamer.federated.settings import FederatedSettings
from gossamer.training.evaluation import evaluate, load_eval_set
from gossamer.training.evaluation.settings import EvaluationSettings
from gossamer.training.outputs.metrics import read_metrics

WAYS: dict[str, dict[str, Any]] = {
    "central": {"clients": 1},
    "fedit": {},
    "ffa": {"aggregation": "ffa"},
    "rolora": {"aggregation": "rolora"},
    "fedex": {"aggregation": "fedex"},
    "flora": {"aggregation": "flora"},
    "flex": {"aggregation": "flex"},
    "slora": {"method": "slora", "method_settings": {"sparse_share": 0.2}},
    "slora-residual": {
        "method": "slora",
        "method_settings": {"sparse_share": 0.2, "keep_residual": True},
    },
    "federa": {"method": "federa"},
}
"""What each way changes of a run of `fedit` with `lora`."""
DEFAULT = ("central", "fedit", "ffa", "rolora", "slora", "slora-residual", "federa")
KEPT = ("step", "loss", "eval_loss", "up", "down", "stage", "distance")
Row = dict[str, Any]


def main() -> None:
    """Run what is missing, and print the table."""
    args = parse_args()
    known = read_results(args.results)
    if not args.table:
        for seed in args.seeds:
            run_seed(seed, args, known)
    print(table(known))
    if args.picture is not None:
        first = [row for row in known if row["seed"] == known[0]["seed"]]
        draw_rounds({label(row): row["records"] for row in first}, args.picture)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--table", action="store_true", help="print what is known, run nothing")
    parser.add_argument("--picture", type=Path, help="draw the losses as PNG or SVG")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data-name", default="", help="what the results call the data")
    parser.add_argument("--train", help="rows that clients learn")
    parser.add_argument("--test", help="rows that judge")
    parser.add_argument("--label", help="the column with the class of a row")
    parser.add_argument("--alpha", type=float, default=0.1, help="of Dirichlet's distribution")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of each client in each round")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rows", type=int, help="use at most this many training rows")
    parser.add_argument("--test-rows", type=int, default=200, help="judge by this many rows")
    parser.add_argument("--eval-every", type=int, default=1, help="rounds between evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    missing = [n for n in ("train", "test", "label") if getattr(args, n) is None]
    if missing and not args.table:
        parser.error(f"--{missing[0]} is required")
    unknown = [way for way in args.ways if way not in WAYS]
    if unknown:
        parser.error(f"'{unknown[0]}' is none of {', '.join(WAYS)}")
    return args


def run_seed(seed: int, args: argparse.Namespace, known: list[Row]) -> None:
    """Run all ways with one seed: for equal rounds, then for equal bytes."""
    ways = args.ways or DEFAULT
    for way in ways:
        ensure(way, args.rounds, seed, args, known)
    fedit = find(known, facts("fedit", args.rounds, seed, args))
    for way in ways:
        own = find(known, facts(way, args.rounds, seed, args))
        if fedit is None or own is None or way in ("central", "fedit"):
            continue
        rounds = round(args.rounds * sent(fedit) / sent(own))
        if rounds > args.rounds:
            ensure(way, rounds, seed, args, known, equal="bytes")


def ensure(
    way: str,
    rounds: int,
    seed: int,
    args: argparse.Namespace,
    known: list[Row],
    *,
    equal: str = "rounds",
) -> None:
    """Carry out a run unless the results have it."""
    wanted = facts(way, rounds, seed, args)
    if find(known, wanted) is not None:
        return
    with tempfile.TemporaryDirectory(prefix="gossamer-federated-") as folder:
        test = Path(folder) / "test.jsonl"
        lines = Path(args.test).read_text(encoding="utf-8").splitlines(keepends=True)
        test.write_text("".join(lines[: args.test_rows]), encoding="utf-8")
        settings = settings_of(wanted, args, test, Path(folder) / "run")
        result = simulate(settings, tell=lambda line: print(f"{way}: {line}", flush=True))
        row = wanted | {"equal": equal, **measured(result, settings, test)}
    with args.results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    known.append(row)
    gc.collect()


def facts(way: str, rounds: int, seed: int, args: argparse.Namespace) -> Row:
    """What defines a run."""
    names = ("model", "data_name", "alpha", "clients", "steps", "batch_size", "rank", "rows")
    more = {name: getattr(args, name) for name in (*names, "test_rows", "label")}
    return {"way": way, "rounds": rounds, "seed": seed, **more}


def settings_of(
    wanted: Row, args: argparse.Namespace, test: Path, output: Path
) -> FederatedSettings:
    """The settings of a run."""
    way = WAYS[wanted["way"]]
    alone = way.get("clients") == 1
    split = {"split": f"dirichlet:{args.alpha:g}", "split_by": args.label}
    values = {
        "model": args.model,
        "data": args.train,
        "eval_data": str(test),
        "output": str(output),
        "clients": args.clients,
        "rounds": wanted["rounds"],
        "max_steps": args.steps * (args.clients if alone else 1),
        "batch_size": args.batch_size,
        "max_rows": args.rows,
        "seed": wanted["seed"],
        "eval_every": args.eval_every,
        "save_every": 10_000,
        **({} if alone else split),
        **way,
        "method_settings": {"rank": args.rank, **way.get("method_settings", {})},
    }
    return FederatedSettings.parse(values)


def measured(result: FederatedResult, settings: FederatedSettings, test: Path) -> Row:
    """What a run has come to: its figures, and the score of the adapter that it left."""
    records = [
        {name: record[name] for name in KEPT if name in record}
        for record in read_metrics(result.output)
    ]
    if settings.clients == 1:
        # One machine sends nothing.
        records = [r | ({"up": 0, "down": 0} if "up" in r else {}) for r in records]
    folder = resolve(settings.model)
    tokenizer = load_tokenizer(folder)
    rules = EvaluationSettings(score="choice", max_new_tokens=16)
    held_out = load_eval_set(str(test), rules, settings, tokenizer)
    model = PeftModel.from_pretrained(load_model(folder, dtype=torch.float32), result.output)
    found = evaluate(model, tokenizer, held_out, rules)
    return {
        "eval_loss_before": result.eval_loss_before,
        "eval_loss": result.eval_loss,
        "score": found.value,
        "seconds": result.seconds,
        "failures": result.failures,
        "records": records,
        "machine": describe_machine(),
    }


def sent(row: Row) -> int:
    """All bytes of a run, both ways."""
    return sum(record.get("up", 0) + record.get("down", 0) for record in row["records"])


def label(row: Row) -> str:
    """What the table calls a run."""
    return row["way"] if row["equal"] == "rounds" else f"{row['way']}, {row['rounds']} rounds"


def table(known: list[Row]) -> str:
    """All runs as a Markdown table: means over the seeds, and their spread."""
    lines = [
        "| way | seeds | rounds | MB, all rounds | held-out loss | score | loss at fedit's bytes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    budget = min((sent(row) for row in known if row["way"] == "fedit"), default=0)
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in known:
        groups.setdefault((label(row), row["rounds"]), []).append(row)
    for (name, _), rows in groups.items():
        within = [loss_within(row, budget) for row in rows]
        cells = [
            name,
            str(len(rows)),
            str(rows[0]["rounds"]),
            f"{mean(sent(row) for row in rows) / 1e6:.1f}",
            spread([row["eval_loss"] for row in rows], ".4f"),
            spread([100 * row["score"] for row in rows], ".1f") + " %",
            "–" if name == "central" else spread(within, ".4f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    before = sorted({f"{row['eval_loss_before']:.4f}" for row in known})
    machines = sorted({row["machine"] for row in known})
    return "\n".join([*lines, "", f"Before: loss {', '.join(before)}. {'; '.join(machines)}"])


def loss_within(row: Row, budget: int) -> float:
    """The last held-out loss that was measured before more than `budget` bytes were sent."""
    return [loss for _, total, loss in loss_points(row["records"]) if total <= budget][-1]


def spread(values: list[float], form: str) -> str:
    """The mean of values, and their deviation if there are several."""
    text = f"{mean(values):{form}}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):{form}}"


def find(known: list[Row], wanted: Row) -> Row | None:
    """The result of a run, if it is known."""
    return next((r for r in known if all(r.get(k) == v for k, v in wanted.items())), None)


def read_results(path: Path) -> list[Row]:
    """All complete lines of the results file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


if __name__ == "__main__":
    main()
