"""How near to its base a model with MEFT starts: the loss before training, by settings.

    python benchmarks/meft_start.py --data FILE --output benchmarks/results/meft-start_x

FILE has rows with "prompt" and "completion"; the loss is the mean over the completions' tokens of
the first rows, each row by itself. Adapters are as they are drawn.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, set_seed

from common import describe_machine
from gossamer import methods
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model
from gossamer.methods import MethodContext
from gossamer.settings import parse_assignments

ALL = "reversible_layers=30"
ENTRIES = (
    "",
    "lam=0.25",
    "lam=0.5",
    ALL,
    "variant=meft3",
    "residual=whole",
)


def main() -> None:
    """Measure the base and all entries; print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--output", type=Path, help="write OUTPUT.md")
    args = parser.parse_args()
    folder = Path(resolve(args.model))
    rows = encoded(args, folder)
    lines = ["| settings of meft | loss |", "| --- | --- |"]
    lines.append(f"| the base | {loss(load_model(folder, dtype=torch.float32), rows):.2f} |")
    for entry in ENTRIES:
        shown = entry.replace(":", ", ") or "defaults"
        lines.append(f"| {shown} | {loss(tuned(args, folder, entry), rows):.2f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    # No path of the machine: the file's name will do.
    command = f"python benchmarks/meft_start.py --data {args.data.name} --rows {args.rows}"
    text = "\n".join(
        [f"{describe_machine()}.", "", f"`{command}`: {args.model}, float32", "", *lines]
    )
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text + "\n")


def encoded(args: argparse.Namespace, folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """ids and labels [1, tokens] of the first rows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for line in args.data.read_text().splitlines()[: args.rows]:
        row = json.loads(line)
        prompt = tokenizer(row["prompt"] + "\n").input_ids
        reply = tokenizer(row["completion"]).input_ids
        labels = [-100] * len(prompt) + reply
        rows.append((torch.tensor([prompt + reply]), torch.tensor([labels])))
    return rows


def tuned(args: argparse.Namespace, folder: Path, entry: str) -> Any:
    """The base with an adapter that has learnt nothing."""
    context = MethodContext(
        model_name=args.model,
        base_folder=folder,
        base_fingerprint="",
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=1,
    )
    method = methods.find("meft").from_values(parse_assignments(entry.split(":") if entry else []))
    set_seed(0)
    return method.prepare(load_model(folder, dtype=torch.float32), context)


@torch.no_grad()
def loss(model: Any, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The mean over all learnt tokens."""
    total, count = 0.0, 0
    for ids, labels in rows:
        number = int((labels[:, 1:] != -100).sum())
        total += number * model.eval()(input_ids=ids, labels=labels, use_cache=False).loss.item()
        count += number
    return total / count


if __name__ == "__main__":
    main()
