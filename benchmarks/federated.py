"""Federated ways to learn against bytes: held-out loss and score after equal rounds, and bytes.

    python benchmarks/federated.py --results federated.jsonl --data-name arithmetic --label source \
        --train TRAIN.jsonl --test TEST.jsonl --rounds 10 --steps 5 --seeds 0 1 2

Clients get the rows of each class of the column `--label` in proportions drawn from a Dirichlet
distribution. Every way is run for as many rounds; one that sends less than `fedit` is run once more
for as many rounds as the bytes of `fedit` allow. `base` is the model before any round, `central`
one machine with all rows, which takes as many steps in a round as all clients together. SLoRA
without sparse rounds is `fedit`. The score is what `gossamer compare --score auto` takes for these
rows: the last number of the reply where all answers are numbers. Held-out rows are drawn from the
whole file, the same for all runs. Learning rates are the methods' own.

Each finished run is a line of the results file, and no run that is there is done again: a killed
benchmark is continued by the same command. Lines without the name of their score are of an older
form and count as missing. `--table` prints what is known as Markdown, with `--picture FILE` the
mean loss of each way against rounds and against bytes, with its deviation over the seeds.
"""

import argparse
import gc
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

import gossamer.tuners  # noqa: F401
from common import describe_machine
from federated_table import Row, draw, sent, table
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.federated.outputs.record import FederatedResult
from gossamer.federated.run import simulate
from gossamer.federated.settings import FederatedSettings
from gossamer.training.evaluation import Evaluation, evaluate, load_eval_set
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
JUDGED = ("test_rows", "label", "max_new_tokens", "eval_every")
KEPT = ("step", "loss", "eval_loss", "up", "down", "stage", "distance")


def main() -> None:
    """Run what is missing, and print the table."""
    args = parse_args()
    known = read_results(args.results)
    if not args.table:
        run_all(args, known)
    print(table(known))
    if args.picture is not None:
        draw(known, args.picture)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"base, {', '.join(WAYS)}")
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--table", action="store_true", help="print what is known, run nothing")
    parser.add_argument("--picture", type=Path, help="draw what is known as PNG or SVG")
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
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, help="longest reply; longer ones are cut"
    )
    parser.add_argument(
        "--no-equal-bytes", action="store_true", help="leave out the runs for as many bytes"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    missing = [n for n in ("train", "test", "label") if getattr(args, n) is None]
    if missing and not args.table:
        parser.error(f"--{missing[0]} is required")
    unknown = [way for way in args.ways if way not in (*WAYS, "base")]
    if unknown:
        parser.error(f"'{unknown[0]}' is none of base, {', '.join(WAYS)}")
    if args.picture is not None and args.picture.suffix not in (".png", ".svg"):
        parser.error(f"--picture {args.picture}: give a name that ends in .png or .svg")
    return args


def run_all(args: argparse.Namespace, known: list[Row]) -> None:
    """Run all ways for equal rounds, seed after seed, and then for equal bytes."""
    if not args.ways or "base" in args.ways:
        # No seed changes it.
        ensure("base", 0, 0, args, known)
    ways = [way for way in args.ways or DEFAULT if way != "base"]
    for seed in args.seeds:
        for way in ways:
            ensure(way, args.rounds, seed, args, known)
    for seed in args.seeds if not args.no_equal_bytes else ():
        fedit = find(known, facts("fedit", args.rounds, seed, args))
        for way in ways:
            own = find(known, facts(way, args.rounds, seed, args))
            if fedit is None or own is None or way in ("central", "fedit"):
                continue
            last = next(record for record in reversed(own["records"]) if "up" in record)
            more = (sent(fedit) - sent(own)) // (last["up"] + last["down"])
            if more > 0:
                ensure(way, args.rounds + more, seed, args, known)


def ensure(way: str, rounds: int, seed: int, args: argparse.Namespace, known: list[Row]) -> None:
    """Carry out a run unless the results have it."""
    wanted = facts(way, rounds, seed, args)
    if find(known, wanted) is not None:
        return
    with tempfile.TemporaryDirectory(prefix="gossamer-federated-") as folder:
        test = Path(folder) / "test.jsonl"
        test.write_text("".join(drawn(args.test, args.test_rows)), encoding="utf-8")
        settings = settings_of(wanted, args, test, Path(folder) / "run")
        rules = EvaluationSettings(max_new_tokens=args.max_new_tokens)
        if way == "base":
            figures = judge_base(settings, test, rules)
        else:
            result = simulate(settings, tell=lambda line: print(f"{way}: {line}", flush=True))
            figures = measured(result, settings, test, rules)
        row = wanted | figures | {"machine": describe_machine()}
    with args.results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    known.append(row)
    gc.collect()


def drawn(name: str, count: int) -> list[str]:
    """Draw `count` lines from the whole file, in its order, the same ones at every call: the first
    ones may all be of one kind."""
    lines = Path(name).read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = random.Random(0).sample(range(len(lines)), min(count, len(lines)))
    return [lines[number].rstrip("\n") + "\n" for number in sorted(chosen)]


def facts(way: str, rounds: int, seed: int, args: argparse.Namespace) -> Row:
    """What defines a run; `base_rounds` are those of the comparison at equal rounds."""
    names = ("model", "data_name", "alpha", "clients", "steps", "batch_size", "rank", "rows")
    more = {name: getattr(args, name) for name in (*names, *JUDGED)}
    return {"way": way, "rounds": rounds, "seed": seed, "base_rounds": args.rounds, **more}


def settings_of(
    wanted: Row, args: argparse.Namespace, test: Path, output: Path
) -> FederatedSettings:
    """The settings of a run."""
    way = WAYS.get(wanted["way"], {})
    alone = way.get("clients") == 1
    split = {"split": f"dirichlet:{args.alpha:g}", "split_by": args.label}
    values = {
        "model": args.model,
        "data": args.train,
        "eval_data": str(test),
        "output": str(output),
        "clients": args.clients,
        "rounds": max(1, wanted["rounds"]),
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


def measured(
    result: FederatedResult, settings: FederatedSettings, test: Path, rules: EvaluationSettings
) -> Row:
    """What a run has come to: its figures, and the score of the adapter that it left."""
    records = [
        {name: record[name] for name in KEPT if name in record}
        for record in read_metrics(result.output)
    ]
    if settings.clients == 1:
        # One machine sends nothing.
        records = [r | ({"up": 0, "down": 0} if "up" in r else {}) for r in records]
    found = judge(settings, test, rules, result.output)
    return {
        "eval_loss_before": result.eval_loss_before,
        "eval_loss": result.eval_loss,
        "score_name": found.score,
        "score": found.value,
        "unfinished": found.unfinished,
        "seconds": result.seconds,
        "failures": result.failures,
        "records": records,
    }


def judge_base(settings: FederatedSettings, test: Path, rules: EvaluationSettings) -> Row:
    """The loss and the score of the model before any round."""
    found = judge(settings, test, rules, None)
    return {
        "eval_loss_before": found.loss,
        "eval_loss": found.loss,
        "score_name": found.score,
        "score": found.value,
        "unfinished": found.unfinished,
        "records": [],
    }


def judge(
    settings: FederatedSettings, test: Path, rules: EvaluationSettings, adapter: Path | None
) -> Evaluation:
    """Measure the base model, or an adapter of it."""
    folder = resolve(settings.model)
    tokenizer = load_tokenizer(folder)
    held_out = load_eval_set(str(test), rules, settings, tokenizer)
    model = load_model(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return evaluate(model, tokenizer, held_out, rules)


def find(known: list[Row], wanted: Row) -> Row | None:
    """The result of a run, if it is known."""
    return next((r for r in known if all(r.get(k) == v for k, v in wanted.items())), None)


def read_results(path: Path) -> list[Row]:
    """All complete lines of the results file that name their score."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "score_name" in row:
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
