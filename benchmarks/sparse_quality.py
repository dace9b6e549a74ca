"""What sparse compute costs in quality: dense and sparse LoRA at equal steps and at equal minutes.

    python benchmarks/sparse_quality.py --train TRAIN.jsonl --test TEST.jsonl --plan plan.yaml \
        --output FOLDER [--steps 400]

Three runs on the same rows in the same order: dense; sparse, as many steps; sparse, as many steps
as fit into the dense run's training time at the pace measured so far. The training file is what
`gossamer tune` reads, the test file what `last_number.py` reads (`prompt` and `answer`); accuracy
is the share of test rows whose reply ends in the right number. Writes `results.json` and a picture.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common import describe_machine
from gossamer.llm import LLM
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.loss_curve import smooth
from gossamer.training.outputs.metrics import RunResult
from gossamer.training.run import tune
from last_number import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default="attention", help="all-linear, attention or mlp")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-rows", type=int, help="score only the first so many")
    parser.add_argument("--max-tokens", type=int, default=200)
    args = parser.parse_args()
    runs = {"dense": train("dense", args, args.steps, None)}
    runs["sparse, equal steps"] = train("sparse-steps", args, args.steps, args.plan)
    runs["sparse, equal minutes"] = train(
        "sparse-minutes", args, steps_in_time(*runs.values(), args.steps), args.plan
    )
    report(runs, args)


def train(name: str, args: argparse.Namespace, steps: int, plan: str | None) -> RunResult:
    """One run; a finished one in the same folder is replaced."""
    print(f"{name}: {steps} steps", flush=True)
    return tune(
        args.model,
        args.train,
        args.output / name,
        method="lora",
        max_steps=steps,
        batch_size=args.batch_size,
        rank=args.rank,
        target_modules=args.targets,
        learning_rate=args.learning_rate,
        seed=args.seed,
        sparse_compute=plan,
        save_every=max(50, steps),
        overwrite=True,
        listener=Listener(),
    )


def steps_in_time(dense: RunResult, sparse: RunResult, steps: int) -> int:
    """Steps under the plan that take as long as the dense run."""
    return max(steps, round(steps * dense.seconds / sparse.seconds))


def report(runs: dict[str, RunResult], args: argparse.Namespace) -> None:
    """Accuracies, a table, the curves, `results.json`."""
    rows = [json.loads(line) for line in args.test.read_text().splitlines()][: args.test_rows]
    found: dict[str, dict[str, Any]] = {}
    with LLM(args.model, adapters=args.output) as llm:
        for name, run in runs.items():
            right = score(llm, rows, run.output.name, args.max_tokens)
            found[name] = {**run.as_record(), "losses": run.losses, "right": right}
            print(
                f"{name:22} {run.steps:5} steps  {run.seconds / 60:6.1f} min  work kept "
                f"{1.0 if run.work_kept is None else run.work_kept:6.1%}  loss {run.train_loss:.4f}"
                f"  {right} of {len(rows)} right ({right / len(rows):.1%})",
                flush=True,
            )
    content = {"machine": describe_machine(), "test_rows": len(rows), "runs": found}
    (args.output / "results.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    draw(runs, args.output / "curves.png")


def draw(runs: dict[str, RunResult], path: Path) -> None:
    """Smoothed training losses over steps and over minutes."""
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    by_steps, by_minutes = figure.subplots(1, 2, sharey=True)
    for name, run in runs.items():
        losses = smooth(run.losses)
        by_steps.plot(range(1, len(losses) + 1), losses, label=name)
        minutes = [run.seconds / 60 * (n + 1) / len(losses) for n in range(len(losses))]
        by_minutes.plot(minutes, losses, label=name)
    by_steps.set(xlabel="step", ylabel="training loss, smoothed")
    by_minutes.set(xlabel="minutes of training")
    for axes in (by_steps, by_minutes):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
