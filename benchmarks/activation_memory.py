"""What a training step keeps: MEFT against LoRA, gradient checkpointing and full fine-tuning.

    python benchmarks/activation_memory.py --output benchmarks/results/activation-memory_x
    python benchmarks/activation_memory.py --errors --output benchmarks/results/meft-errors_x

Bytes are counted, not sampled, so that neither the machine's load nor its allocator disturbs them:
`kept` are the different storages that autograd holds after the forward pass, weights apart; `peak`
are the most bytes of tensors alive at once in a forward and backward pass beyond weights, gradients
of what learns included. Tokens are random; the last quarter of each row is learnt.

With `--errors`: how well MEFT's inverse rebuilds the streams, layer by layer from the last, without
anchors, in the types of streams and model that are asked for.
"""

import argparse
import gc
import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import set_seed

from common import describe_machine
from gossamer import methods
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model
from gossamer.methods import MethodContext
from gossamer.methods.meft import stack
from gossamer.methods.meft.coupling import reconstruction_errors, run_plainly
from gossamer.settings import parse_assignments

CHECKPOINTED = "+checkpointing"
ENTRIES = ",".join(
    [
        "full",
        "lora",
        f"lora{CHECKPOINTED}",
        "meft",
        f"meft{CHECKPOINTED}",
        f"meft:lam=0.25{CHECKPOINTED}",
        "meft:variant=meft3",
    ]
)
PAIRS = (
    ("float32", "meft:stream_dtype=float32"),
    ("float32", "meft:stream_dtype=float32:lam=0.1:residual=whole"),
    ("float32", "meft:lam=0.1"),
    ("float32", "meft"),
    ("float32", "meft:lam=0.25"),
    ("float32", "meft:lam=0.5"),
    ("float32", "meft:variant=meft3"),
    ("bfloat16", "meft:stream_dtype=float32"),
    ("bfloat16", "meft"),
)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are made inside and not yet gone, and the most of them."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)


def main() -> None:
    """Measure what is asked for; print it, and write it where asked."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    made = errors(args) if args.errors else memory(args)
    command = "python " + " ".join(sys.argv)
    lines = [
        f"{describe_machine()}.",
        "",
        f"`{command}`: {args.model}, {describe(args)}",
        "",
        *made,
    ]
    print("\n".join(lines))
    if args.output:
        args.output.with_suffix(".md").write_text("\n".join(lines) + "\n")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=ENTRIES, help="NAME:setting=value, by commas")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="per row")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--errors", action="store_true", help="of MEFT's inverse, by layer")
    parser.add_argument("--output", type=Path, help="write OUTPUT.md")
    return parser.parse_args()


def describe(args: argparse.Namespace) -> str:
    """What each step is given."""
    return f"{args.rows} x {args.tokens} tokens of which a quarter is learnt"


def build(args: argparse.Namespace, entry: str, dtype: str) -> Any:
    """The base model with the entry's method, in training mode."""
    name, *settings = entry.removesuffix(CHECKPOINTED).split(":")
    method = methods.find(name).from_values(parse_assignments(settings))
    folder = Path(resolve(args.model))
    context = MethodContext(
        model_name=args.model,
        base_folder=folder,
        base_fingerprint="",
        dtype=dtype,
        device="cpu",
        seed=0,
        total_steps=1000,
    )
    base = load_model(folder, dtype=getattr(torch, dtype))
    set_seed(0)
    model = method.prepare(base, context).train()
    if entry.endswith(CHECKPOINTED):
        base.activation_checkpointing_enable()
        model.enable_input_require_grads()
    return model


def batch(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Random tokens of which the last quarter is learnt."""
    generator = torch.Generator().manual_seed(0)
    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (args.rows, args.tokens), generator=generator)
    return {"input_ids": ids, "use_cache": False, "logits_to_keep": args.tokens // 4}


def memory(args: argparse.Namespace) -> list[str]:
    """Rows of the table of what is kept."""
    rows = []
    for entry in args.methods.split(","):
        model = build(args, entry, args.dtype)
        inputs = batch(args, model)
        kept = kept_bytes(model, inputs)
        peak = peak_bytes(model, inputs)
        learns = [p for p in model.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in learns)
        rows.append((entry, sum(p.numel() for p in learns), kept, gradients, peak))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        del model, learns
        gc.collect()
    base = next((row[2] for row in rows if row[0] == "lora"), rows[0][2])
    table = [
        "| method | learns | kept by the layers, MiB | of LoRA's | gradients, MiB | peak, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry, learns, kept, gradients, peak in rows:
        table.append(
            f"| `{entry}` | {learns:,} | {kept / 2**20:.1f} | {kept / base:.3f} "
            f"| {gradients / 2**20:.1f} | {peak / 2**20:.1f} |"
        )
    return table


def kept_bytes(model: Any, inputs: dict[str, Any]) -> int:
    """What autograd holds after the forward pass of all but one position of the head."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held, so that no other tensor gets the same address.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**{**inputs, "logits_to_keep": 1})
    return sum(size for size, _ in kept.values())


def peak_bytes(model: Any, inputs: dict[str, Any]) -> int:
    """The most bytes alive in a forward and a backward pass, beyond weights."""
    labels = inputs["input_ids"][:, -inputs["logits_to_keep"] :]
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with live:
        logits = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        )
        del logits
        loss.backward()
    model.zero_grad()
    return live.peak


def errors(args: argparse.Namespace) -> list[str]:
    """Rows of the table of relative errors of what the inverse rebuilds."""
    shown = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28)
    table = [
        f"| model | method | {' | '.join(map(str, shown))} |",
        "| --- " * (len(shown) + 2) + "|",
    ]
    for dtype, entry in PAIRS:
        model = build(args, entry, dtype).eval()
        found = rebuilt_errors(model, batch(args, model))
        cells = [f"{found[i - 1]:.0e}" if i <= len(found) else "" for i in shown]
        table.append(f"| {dtype} | `{entry}` | {' | '.join(cells)} |")
        print(table[-1], file=sys.stderr, flush=True)
    return table


@torch.no_grad()
def rebuilt_errors(model: Any, inputs: dict[str, Any]) -> list[float]:
    """Errors of the inverse after 1, 2, ... layers from the last, by MEFT's own layers."""
    found: list[float] = []

    def spy(layers: Any, x1: torch.Tensor, x2: torch.Tensor) -> Any:
        found.extend(reconstruction_errors(layers, x1, x2))
        return run_plainly(layers, x1, x2)

    before, stack.run_plainly = stack.run_plainly, spy
    try:
        model(**inputs)
    finally:
        stack.run_plainly = before
    return found


if __name__ == "__main__":
    main()
