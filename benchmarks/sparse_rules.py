r"""The loss of an untrained model under MLP shares, by the rule that chooses channels.

    python benchmarks/sparse_rules.py --data TRAIN.jsonl --output FILE.json \
        [--shares 0.65] [--rules released sample oracle random]
    python benchmarks/sparse_rules.py --data TRAIN.jsonl --output FILE.json --batch-size 4 \
        --target 0.8 --rises 0 0.3 --rules sample "sample, mean" "sample, nothing"

Rows are those that `gossamer sparsity plan` would measure on. "released" is the rule of the
published code: factors of rank 8, the mean token of each row, a dense span from the first label to
the last, no first token. The others are a plan's criteria with its defaults, but for what they
name. With a target all keep the same work, and shares rise with depth by each of the rises. Each
figure is written as soon as it is known, and the same command goes on with those that are missing.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from common import describe_machine
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.files import write_whole
from gossamer.sparsity import SparsityPlan
from gossamer.sparsity.flops import lora_weights, work_shape
from gossamer.sparsity.search.graded import RISE, GradedShares, inner_layers
from gossamer.sparsity.search.halfway import Batch, JointLoss
from gossamer.sparsity.search.work import RunWork
from gossamer.training.data import load_data
from gossamer.training.sparsity_sweep import count_tokens, some_batches
from gossamer.training.sweep_settings import SweepSettings

RULES: dict[str, dict[str, Any]] = {
    "released": {"criterion": "svd", "border": "labels", "dense_first": 0},
    "svd": {"criterion": "svd"},
    "sample": {},
    "sample, mean": {"compensation": "mean"},
    "sample, nothing": {"compensation": "none"},
    "sample, border as released": {"border": "labels"},
    "sample, no first token": {"dense_first": 0},
    "sample of 8": {"sample_tokens": 8},
    "sample of 128": {"sample_tokens": 128},
    "sample of 8 a row": {"sample_tokens": 8, "sample_of": "row"},
    "oracle": {"criterion": "oracle"},
    "random": {"criterion": "random"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.65])
    parser.add_argument("--rules", nargs="+", default=["released", "sample", "oracle", "random"])
    parser.add_argument("--target", type=float, help="a share of the work, instead of shares")
    parser.add_argument("--rises", type=float, nargs="+", default=[RISE])
    parser.add_argument("--layers", help="such as 3-27; default: those of `sparsity plan`")
    args = parser.parse_args()
    content = json.loads(args.output.read_text()) if args.output.exists() else {}
    settings = {key: str(value) for key, value in vars(args).items() if key != "output"}
    content = {"machine": describe_machine(), "settings": settings, "losses": [], **content}
    model, batches = load(args)
    joint = JointLoss(model, batches)
    print(f"dense {joint.dense:.4f}", flush=True)
    content["dense"] = joint.dense
    inner = inner_layers(joint.layers, None)
    if args.target is not None:
        at_equal_work(model, batches, joint, inner, content, args)
        return
    layers = args.layers or f"{inner[0]}-{inner[-1]}"
    for share in args.shares:
        for rule in args.rules:
            key = {"layers": layers, "share": share, "rule": rule}
            if any(key.items() <= one.items() for one in content["losses"]):
                continue
            plan = SparsityPlan(mlp={layers: share}, span="sample", **RULES[rule])
            one = {**key, "kept": kept(model, batches, plan), "loss": joint(plan)}
            content["losses"].append(one)
            write_whole(args.output, json.dumps(content, indent=1) + "\n")
            print(
                f"{layers} {share} {rule:28} kept {one['kept']:.3f} {one['loss']:.4f}", flush=True
            )


def at_equal_work(
    model: Any,
    batches: list[Batch],
    joint: JointLoss,
    inner: range,
    content: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Measure all rules with shares that keep `--target` of a run."""
    for rise in args.rises:
        for rule in args.rules:
            key = {"target": args.target, "rise": rise, "rule": rule}
            if any(key.items() <= one.items() for one in content["losses"]):
                continue
            options = SparsityPlan(span="sample", **RULES[rule])
            work = run_work(model, batches, options)
            graded = GradedShares(joint, work, inner, options, lambda done, total: None, rise)
            found = graded.reaching(args.target)
            one = {
                **key,
                "kept": work.kept(found.plan),
                "choosing": work.choosing(found.plan),
                "mlp": found.plan.mlp,
                "loss": found.loss,
            }
            content["losses"].append(one)
            write_whole(args.output, json.dumps(content, indent=1) + "\n")
            print(f"{rise:4} {rule:28} kept {one['kept']:.3f} {one['loss']:.4f}", flush=True)


def load(args: argparse.Namespace) -> tuple[Any, list[Batch]]:
    settings = SweepSettings(
        model=args.model, data=args.data, rows=args.rows, batch_size=args.batch_size
    )
    folder = resolve(args.model)
    tokenizer = load_tokenizer(folder)
    rows = load_data(settings, tokenizer, seed=settings.seed).train
    model = load_model(folder, dtype=torch.float32, device="cpu").requires_grad_(False)
    return model, some_batches(rows, tokenizer, settings, "cpu")


def kept(model: Any, batches: list[Batch], plan: SparsityPlan) -> float:
    """Share of a run's operations, LoRA of rank 16 on attention and 5 % dense start included."""
    return run_work(model, batches, plan).kept(plan)


def run_work(model: Any, batches: list[Batch], options: SparsityPlan) -> RunWork:
    """The work of a run of LoRA of rank 16 on attention, 5 % of its steps dense."""
    shape = work_shape(model, adapter_weights=0)
    shape = work_shape(model, adapter_weights=lora_weights(shape, 16, mlp=False))
    return RunWork(shape, count_tokens(batches, options), 0.05, options)


if __name__ == "__main__":
    main()
