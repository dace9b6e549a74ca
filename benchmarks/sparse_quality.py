r"""What sparse compute costs in quality: dense LoRA and LoRA under plans, at equal steps.

    python benchmarks/sparse_quality.py --train TRAIN.jsonl --test TEST.jsonl --output FOLDER \
        --plans 80=plan80.yaml 50=plan50.yaml [--seeds 0 1 2] [--steps 100]

Each seed trains dense and under each plan on the same rows in the same order, and takes the loss of
the same held-out rows with the dense model. With `--score`, the test file is what `last_number.py`
reads (`prompt` and `answer`), and replies that end in the right number are counted as well.
Make the plans on the training rows (`gossamer sparsity plan --data TRAIN.jsonl`).

Stop it at any time: the same command goes on from the last checkpoint.
Writes `results.json` and `curves.png` after each run.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common import describe_machine
from gossamer.files import write_whole
from gossamer.llm import LLM
from gossamer.sparsity import load_plan
from gossamer.training.outputs.checkpoint import latest_checkpoint
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.loss_curve import smooth
from gossamer.training.run import tune
from last_number import score

DENSE = "dense"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--plans", nargs="+", default=[], metavar="NAME=PLAN")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default="attention", help="all-linear, attention or mlp")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--test-rows", type=int, help="hold out only the first so many")
    parser.add_argument("--score", action="store_true", help="count right answers as well")
    parser.add_argument("--max-tokens", type=int, default=200)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    systems = {DENSE: None} | dict(pair.split("=", 1) for pair in args.plans)
    for seed in args.seeds:
        for name, plan in systems.items():
            train(name, seed, args, plan)
            report(systems, args)
    if args.score:
        count_right(args)
        report(systems, args)


def held_out(args: argparse.Namespace) -> Path:
    """The file of the held-out rows."""
    lines = args.test.read_text().splitlines()[: args.test_rows]
    path = args.output / "held-out.jsonl"
    write_whole(path, "\n".join(lines) + "\n")
    return path


def train(name: str, seed: int, args: argparse.Namespace, plan: str | None) -> None:
    """One run, begun, continued or left alone; what it found is `FOLDER/NAME-SEED.json`."""
    folder = args.output / f"{name}-{seed}"
    record = args.output / f"{name}-{seed}.json"
    if record.exists():
        return
    print(f"{name}, seed {seed}", flush=True)
    begun = latest_checkpoint(folder) is not None
    result = tune(
        args.model,
        args.train,
        folder,
        method="lora",
        eval_data=str(held_out(args)),
        eval_at_start=False,
        max_steps=args.steps,
        batch_size=args.batch_size,
        rank=args.rank,
        target_modules=args.targets,
        learning_rate=args.learning_rate,
        seed=seed,
        sparse_compute=plan,
        save_every=20,
        resume=begun,
        overwrite=not begun,
        listener=Listener(),
    )
    found = {"system": name, "seed": seed, **result.as_record(), "losses": result.losses}
    if plan is not None:
        found["plan"] = load_plan(plan).model_dump(mode="json", exclude_defaults=True)
    write_whole(record, json.dumps(found, indent=1, default=str) + "\n")


def count_right(args: argparse.Namespace) -> None:
    """Add the number of right answers to the records that lack it."""
    rows = [json.loads(line) for line in args.test.read_text().splitlines()]
    with LLM(args.model, adapters=args.output) as llm:
        for path, found in records(args):
            if "right" not in found:
                found["right"] = score(llm, rows, path.stem, args.max_tokens)
                found["of"] = len(rows)
                write_whole(path, json.dumps(found, indent=1) + "\n")


def records(args: argparse.Namespace) -> list[tuple[Path, dict[str, Any]]]:
    """What the finished runs found, by file."""
    paths = sorted(args.output.glob("*-*.json"))
    return [(path, json.loads(path.read_text())) for path in paths]


def report(systems: dict[str, str | None], args: argparse.Namespace) -> None:
    """A table, `results.json` and the curves of what there is so far."""
    runs = [found for _, found in records(args)]
    dense = {run["seed"]: run["eval_loss"] for run in runs if run["system"] == DENSE}
    rows = []
    for name in systems:
        own = [run for run in runs if run["system"] == name]
        gaps = [run["eval_loss"] - dense[run["seed"]] for run in own if run["seed"] in dense]
        if not gaps:
            continue
        row = {
            "system": name,
            "seeds": [run["seed"] for run in own],
            "work_kept": statistics.mean(run["work_kept"] or 1.0 for run in own),
            "held_out_loss": statistics.mean(run["eval_loss"] for run in own),
            "above_dense": statistics.mean(gaps),
            "above_dense_by_seed": gaps,
            "right": [run.get("right") for run in own],
        }
        rows.append(row)
        print(
            f"{name:12} seeds {row['seeds']}  work kept {row['work_kept']:6.1%}  held-out loss "
            f"{row['held_out_loss']:.4f}  above dense {row['above_dense']:+.4f}  right "
            f"{row['right']}",
            flush=True,
        )
    content = {
        "machine": describe_machine(),
        "settings": {key: str(value) for key, value in vars(args).items()},
        "systems": rows,
        "runs": runs,
    }
    write_whole(args.output / "results.json", json.dumps(content, indent=1) + "\n")
    draw(runs, args.output / "curves.png")


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Smoothed training losses over steps; those of a plan are losses of the sparse model."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for run in runs:
        losses = smooth(run["losses"])
        known = run["system"] in colours
        colour = colours.setdefault(run["system"], f"C{len(colours)}")
        label = None if known else run["system"]
        axes.plot(range(1, len(losses) + 1), losses, color=colour, label=label, linewidth=1)
    axes.set(xlabel="step", ylabel="training loss, smoothed")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
