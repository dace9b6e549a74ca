"""What SHERL learns on a few rows, by its settings, and what a step of it keeps beside LoRA's.

    python benchmarks/sherl.py learn --train TRAIN.jsonl --test TEST.jsonl --output FILE.json \
        sherl sherl:late_layers=3,learning_rate=1e-3 ...
    python benchmarks/sherl.py kept sherl sherl:late_layers=3 lora

`learn`: so many steps on the same rows in the same order with AdamW, a linear rate and gradients
cut to length 1, as `gossamer tune` does; prompt and completion joined as plain text, the loss that
of the completion. Early layers never change, so their states are computed once and kept on disk for
all runs: the same numbers in a third of the time. Runs that FILE has already are not done again.

`kept`: the bytes that autograd holds after the forward pass of a batch up to the output head, which
no method changes; each storage once, weights left out. Load on the machine does not touch them.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from common import describe_machine
from gossamer import methods
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_config, load_model, load_tokenizer
from gossamer.methods import MethodContext
from gossamer.methods.sherl.model import SherlConfig
from gossamer.training.comparison.entries import Entry, parse_entries


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("learn", "kept"))
    parser.add_argument("runs", nargs="+", help="METHOD[:SETTING=VALUE,...], as for compare")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--test-rows", type=int, default=36)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="of each row, for `kept`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    entries = parse_entries(args.runs)
    if args.what == "learn":
        learn(entries, args)
    else:
        for entry in entries:
            size, count = kept_bytes(entry, args)
            print(f"{entry.label:<44} {size / 2**20:8.1f} MiB kept, {count:,} trained", flush=True)


def prepared(entry: Entry, args: argparse.Namespace) -> Any:
    """The model as `entry` makes it learn."""
    folder = resolve(args.model)
    context = MethodContext(
        model_name=args.model,
        base_folder=folder,
        base_fingerprint="",
        dtype="float32",
        device="cpu",
        seed=args.seed,
        total_steps=args.steps,
    )
    model = load_model(folder, dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(args.seed)
    return methods.find(entry.method).from_values(entry.given).prepare(model, context).train()


# --- what it learns ------------------------------------------------------------------------------


class Batch:
    """Rows padded on the right, the places whose next token counts, and early states on disk."""

    def __init__(self, rows: list[tuple[list[int], int]], file: Path) -> None:
        width = max(len(ids) for ids, _ in rows)
        self.ids = torch.zeros(len(rows), width, dtype=torch.long)
        self.mask = torch.zeros(len(rows), width, dtype=torch.long)
        self.learnt = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, (ids, prompt) in enumerate(rows):
            self.ids[row, : len(ids)] = torch.tensor(ids)
            self.mask[row, : len(ids)] = 1
            self.learnt[row, prompt - 1 : len(ids) - 1] = True
        self.file = file

    def loss(self, model: Any) -> Tensor:
        """Mean over the tokens of completions; only those go through the output head."""
        base = model.get_base_model()
        inputs = {"input_ids": self.ids, "attention_mask": self.mask, "use_cache": False}
        hidden = base.get_decoder()(**inputs).last_hidden_state
        logits = base.lm_head(hidden[self.learnt])
        return functional.cross_entropy(logits, self.ids.roll(-1, 1)[self.learnt])


class Recalled(nn.Module):
    """Stands for a block whose output on the present batch is known."""

    def __init__(self, number: int, states: dict[int, Tensor]) -> None:
        super().__init__()
        self.number, self.states = number, states

    def forward(self, hidden: Tensor, **options: Any) -> Tensor:
        """The block's output, or what came in where nobody reads it."""
        return self.states.get(self.number, hidden)


def learn(entries: list[Entry], args: argparse.Namespace) -> None:
    """Do the runs that are missing."""
    done = json.loads(args.output.read_text()) if args.output.exists() else {}
    done.setdefault("machine", describe_machine())
    found = done.setdefault("runs", {})
    with TemporaryDirectory() as scratch:
        training, held_out = batches(args, Path(scratch))
        store(entries, [*training, *held_out], args)
        for entry in entries:
            key = f"{entry.label} steps={args.steps} seed={args.seed}"
            if key not in found:
                found[key] = run(entry, training, held_out, args)
                args.output.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{key:<64}", json.dumps(found[key]), flush=True)


def batches(args: argparse.Namespace, folder: Path) -> tuple[list[Batch], list[Batch]]:
    """The batches of training, drawn by the seed, and of the test."""
    tokenizer = load_tokenizer(resolve(args.model))

    def encoded(row: dict[str, str]) -> tuple[list[int], int]:
        prompt = tokenizer(row["prompt"]).input_ids
        completion = tokenizer(" " + row["completion"]).input_ids
        return [*prompt, *completion, tokenizer.eos_token_id], len(prompt)

    def read(path: Path, order: Tensor | None, count: int, name: str) -> list[Batch]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        order = torch.randperm(len(rows), generator=generator) if order is None else order
        chosen = [encoded(rows[index]) for index in order[:count].tolist()]
        size = args.batch_size
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return [Batch(part, folder / f"{name}{number}.pt") for number, part in enumerate(parts)]

    generator = torch.Generator().manual_seed(args.seed)
    training = read(args.train, None, args.steps * args.batch_size, "train")
    return training, read(args.test, torch.arange(args.test_rows), args.test_rows, "test")


def taps(entry: Entry, args: argparse.Namespace) -> list[int]:
    """The blocks whose output `entry` reads; none where it is not SHERL."""
    if entry.method != "sherl":
        return []
    config = SherlConfig(**entry.given)
    config.set_places("layers", load_config(resolve(args.model)).num_hidden_layers)
    return list(config.layers or [])


@torch.no_grad()
def store(entries: list[Entry], parts: list[Batch], args: argparse.Namespace) -> None:
    """Write the states that any of the runs reads, batch by batch."""
    wanted = sorted({number for entry in entries for number in taps(entry, args)})
    model = load_model(resolve(args.model), dtype=torch.float32).eval()
    states: dict[int, Tensor] = {}
    for number in wanted:
        model.model.layers[number].register_forward_hook(
            lambda block, inputs, output, number=number: states.__setitem__(number, output)
        )
    for part in parts:
        model.model(input_ids=part.ids, attention_mask=part.mask, use_cache=False)
        torch.save(states, part.file)


def run(
    entry: Entry, training: list[Batch], held_out: list[Batch], args: argparse.Namespace
) -> dict[str, Any]:
    """Train one, and measure it before and after."""
    model = prepared(entry, args)
    width = model.config.get_text_config().hidden_size
    blocks, states = model.get_base_model().model.layers, {}
    for number in range(max(taps(entry, args), default=-1) + 1):
        blocks[number].base_layer = Recalled(number, states)
    rate = entry.run.get("learning_rate") or methods.default_rate(entry.method).at(width)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
    before = measured(model, held_out, states)
    losses = []
    for step, part in enumerate(training):
        states.update(torch.load(part.file))
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / args.steps)
        loss = part.loss(model)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
    return {
        "held_out_loss": round(measured(model, held_out, states), 4),
        "loss_at_start": round(before, 4),
        "learning_rate": rate,
        "trained": sum(p.numel() for p in learning),
        "losses": losses,
    }


@torch.no_grad()
def measured(model: Any, parts: list[Batch], states: dict[int, Tensor]) -> float:
    """Mean loss per token of the completions."""
    model.eval()
    total, count = 0.0, 0
    for part in parts:
        states.update(torch.load(part.file))
        tokens = int(part.learnt.sum())
        total += part.loss(model).item() * tokens
        count += tokens
    model.train()
    return total / count


# --- what a step keeps ---------------------------------------------------------------------------


def kept_bytes(entry: Entry, args: argparse.Namespace) -> tuple[int, int]:
    """Bytes of all storages that a forward pass holds, but for the weights; what learns."""
    model = prepared(entry, args)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Held, so that no other tensor gets the same address.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    ids = torch.randint(0, 1000, (args.batch_size, args.tokens))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_base_model().get_decoder()(input_ids=ids, use_cache=False)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return size, sum(p.numel() for p in model.parameters() if p.requires_grad)


if __name__ == "__main__":
    main()
