r"""Step time of sparse compute against PEFT's LoRA step, beside what the model of FLOPs predicts.

    python benchmarks/sparse_compute.py --output FILE.json [--models smollm2 wide] [--rounds 5] \
        [--plans plan.yaml]

One process. In each round all systems take a step on the same batch, in an order of the round's
own, and ratios are taken within the round; the median of the rounds counts. "PEFT" is
`get_peft_model` on transformers' model, trained as `gossamer tune` does, with an output head that
works on learnt tokens only, in all systems alike; so the ratios are those of sparsity. Channels are
chosen as a plan does by default, and the choice is part of the step. With `--plans`, plans of files
are systems as well; name only models that they are for.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from common import describe_machine
from gossamer.basemodel.find import resolve
from gossamer.sparsity import SparsityPlan, load_plan, sparsify
from gossamer.training.loop.head_positions import trained_tokens_only

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TARGETS = {"attention": ATTENTION, "all": [*ATTENTION, "gate_proj", "up_proj", "down_proj"]}
WIDE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
SHARES = ["0:0", "0.5:0", "0.9:0", "0.99:0", "0.5:0.5", "0.9:0.5", "0.99:0.75"]
"""Share of MLP channels dropped, share of attention channels dropped, in all layers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smollm2", "wide"])
    parser.add_argument("--targets", nargs="+", default=["attention", "all"], choices=TARGETS)
    parser.add_argument("--shares", nargs="+", default=SHARES, help="MLP:ATTENTION dropped")
    parser.add_argument("--plans", nargs="+", default=[], metavar="FILE", help="plans as systems")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--learnt", type=float, default=0.25, help="share of tokens with a label")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    results = []
    for name in args.models:
        for targets in args.targets:
            results += measure(name, targets, args)
    report = {
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "settings": {k: str(v) for k, v in vars(args).items()},
        "results": results,
    }
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


def measure(name: str, targets: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All systems on one model; prints and returns a row for each."""
    torch.manual_seed(0)
    base = load(name)
    add_fused_lm_head(base)
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=TARGETS[targets])
    model = get_peft_model(base, config).train()
    batch = make_batch(base.config.vocab_size, args)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, 1e-4)
    systems: dict[str, SparsityPlan | None] = {"PEFT": None}
    last = base.config.num_hidden_layers - 1
    for mlp, attention in (map(float, pair.split(":")) for pair in args.shares):
        layers = f"0-{last}"
        plan = {"mlp": {layers: mlp}, "attention": {layers: attention}, "start": 0}
        systems[f"MLP {mlp:g}, attention {attention:g}"] = SparsityPlan.parse(plan)
    for path in args.plans:
        systems[Path(path).stem] = load_plan(path).updated({"start": 0})
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    kept: dict[str, float] = {}
    guesses: dict[str, Any] = {}
    order = random.Random(0)
    for round_number in range(args.rounds + 1):
        for system in order.sample(list(systems), len(systems)):
            plan = systems[system]
            handle = None if plan is None else sparsify(model, plan, guesses=guesses)
            took = step(model, batch, optimizer)
            if handle is not None:
                kept[system] = handle.work_kept
                handle.undo()
            # The first round warms up.
            if round_number:
                seconds[system].append(took)
    return [row(name, targets, system, seconds, kept) for system in systems]


def load(name: str) -> Any:
    if name == "smollm2":
        return AutoModelForCausalLM.from_pretrained(resolve("smollm2-135m"), dtype=torch.float32)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **WIDE), dtype=torch.float32
    )


def make_batch(vocab: int, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    ids = torch.randint(vocab, (args.rows, args.length))
    labels = ids.clone()
    labels[:, : round(args.length * (1 - args.learnt))] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def step(model: Any, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds of one optimizer step."""
    began = time.perf_counter()
    with trained_tokens_only():
        model(**batch, fused_lm_head=True, use_cache=False).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began


def row(
    name: str,
    targets: str,
    system: str,
    seconds: dict[str, list[float]],
    kept: dict[str, float],
) -> dict[str, Any]:
    """One system's figures; printed too."""
    pairs = zip(seconds["PEFT"], seconds[system], strict=True)
    share = kept.get(system, 1.0)
    found = {
        "model": name,
        "lora_on": targets,
        "system": system,
        "seconds": statistics.median(seconds[system]),
        "speedup": statistics.median(peft / own for peft, own in pairs),
        "kept": share,
        "predicted": 1 / share,
        "all_seconds": seconds[system],
    }
    print(
        f"{name:8} LoRA on {targets:9} {system:24} {found['seconds']:7.3f} s  "
        f"speed-up {found['speedup']:.2f}  predicted {found['predicted']:.2f}  kept {share:.1%}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
