"""A training step of each method against PEFT's LoRA: time, peak memory, optimizer state.

    python benchmarks/methods.py --methods lora,smt,smt:block_size=64 --output benchmarks/results/x

Time: all methods in one process, in turn for several rounds; the figure is the median, and ratios
are taken within a round. Memory: the peak of a process of its own that does three steps. A step is
forward, backward and optimizer over random tokens; no clipping, no gradient checkpointing. Of a
method with stages the first one is measured. `lora` (rank 16, all linear layers) is always there:
it is PEFT's. `floor` is no method: one vector learns, behind the first layer, so its step is what
the frozen base alone costs a method that edits hidden states.
"""

import argparse
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from common import describe_machine
from gossamer import methods
from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model
from gossamer.methods import MethodContext
from gossamer.settings import parse_assignments

REFERENCE = "lora"
FLOOR = "floor"


@dataclass(frozen=True)
class Figures:
    """What was measured of one entry."""

    trainable: int
    state_bytes: int
    """Moments of the optimizer after a step."""
    setup_seconds: float
    """From the loaded base to the first step; the probe of methods that look at rows first."""
    peak_bytes: int = 0
    seconds: float = 0.0
    ratio: float = 1.0
    """Of the step's time to the reference's, median over rounds."""


def main() -> None:
    """Measure all entries and print the table, or one of them as a child process."""
    args = parse_args()
    if args.child:
        print(json.dumps(asdict(measure_memory(args, args.child))))
        return
    # Commas in brackets belong to a setting's list.
    asked = re.split(r",(?![^\[]*\])", args.methods)
    entries = list(dict.fromkeys([REFERENCE, *asked]))
    figures = {entry: in_own_process(entry) for entry in entries}
    rounds = measure_time(args, entries)
    for entry, times in rounds.items():
        ratios = [t / r for t, r in zip(times, rounds[REFERENCE], strict=True)]
        figures[entry] = replace(
            figures[entry], seconds=statistics.median(times), ratio=statistics.median(ratios)
        )
    report(args, figures, rounds)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods",
        default="smt,smt:block_size=64,full",
        help="entries NAME or NAME:setting=value:setting=value, separated by commas",
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="per row")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--probe-batches", type=int, default=2, help="at most, for methods that look"
    )
    parser.add_argument("--output", type=Path, help="write OUTPUT.md and OUTPUT.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(entry: str) -> Figures:
    """Memory figures from a child, so that peaks do not mix."""
    command = [sys.executable, *sys.argv, "--child", entry]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{entry}: {done.stderr.strip().splitlines()[-1]}")
    print(f"memory: {entry}", file=sys.stderr, flush=True)
    return Figures(**json.loads(done.stdout.strip().splitlines()[-1]))


def measure_memory(args: argparse.Namespace, entry: str) -> Figures:
    """Three steps; the peak is that of this process."""
    began = time.perf_counter()
    model, optimizer, step = build(args, entry)
    setup = time.perf_counter() - began
    for _ in range(3):
        step()
    states = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    # Step counters are tensors of one number.
    return Figures(
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        state_bytes=sum(t.numel() * t.element_size() for t in states if t.numel() > 1),
        setup_seconds=setup,
        # Kilobytes, on Linux.
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def measure_time(args: argparse.Namespace, entries: list[str]) -> dict[str, list[float]]:
    """Seconds of a step by entry and round; a round is one step of each.

    Each round has an order of its own: the memory that one entry leaves behind makes the next one
    several percent faster or slower.
    """
    steps = {entry: build(args, entry)[2] for entry in entries}
    times: dict[str, list[float]] = {entry: [] for entry in entries}
    order = random.Random(0)
    for round_ in range(-2, args.rounds):
        for entry in order.sample(list(steps), len(steps)):
            began = time.perf_counter()
            steps[entry]()
            if round_ >= 0:
                times[entry].append(time.perf_counter() - began)
                print(f"{entry}: {times[entry][-1]:.3f} s", file=sys.stderr, flush=True)
    return times


def build(args: argparse.Namespace, entry: str) -> tuple[Any, Any, Callable[[], None]]:
    """Model, optimizer and a function that does one step."""
    folder = resolve(args.model)
    vocab = load_config_vocab(folder)

    def batches(count: int) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(min(count, args.probe_batches)):
            ids = torch.randint(vocab, (args.rows, args.tokens), generator=generator)
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    model, optimizer = floor(folder) if entry == FLOOR else prepared(args, entry, folder, batches)
    batch = next(batches(1))

    def step() -> None:
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step


def floor(folder: Path) -> tuple[Any, Any]:
    """The frozen base with one vector that learns, added to what its first layer returns."""
    model = load_model(Path(folder), dtype=torch.float32)
    model.requires_grad_(requires_grad=False).train()
    vector = torch.nn.Parameter(torch.zeros(model.config.hidden_size))
    first = model.get_submodule("model.layers.0")
    first.register_parameter("floor", vector)
    first.register_forward_hook(lambda module, inputs, output: output + vector)
    return model, torch.optim.AdamW([vector], weight_decay=0.0)


def prepared(
    args: argparse.Namespace, entry: str, folder: Path, batches: Callable[[int], Iterator[Any]]
) -> tuple[Any, Any]:
    """The base model with the entry's method, and the optimizer of what learns."""
    name, *settings = entry.split(":")
    method = methods.find(name).from_values(parse_assignments(settings))
    context = MethodContext(
        model_name=args.model,
        base_folder=Path(folder),
        base_fingerprint="",
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=1000,
        probe_batches=batches,
    )
    quantization = method.quantization(context)
    base = load_model(Path(folder), dtype=torch.float32, quantization_config=quantization)
    set_seed(0)
    model = method.prepare(base, context).train()
    rate = method.settings_type.default_learning_rate.at(base.config.hidden_size)
    optimizer = method.optimizer(model, learning_rate=rate, weight_decay=0.0)
    if optimizer is None:
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
    return model, optimizer


def load_config_vocab(folder: Path) -> int:
    """Size of the model's vocabulary."""
    return int(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])


def report(
    args: argparse.Namespace, figures: dict[str, Figures], rounds: dict[str, list[float]]
) -> None:
    """Print the table; write it where asked."""
    command = "python " + " ".join(sys.argv)
    lines = [
        "# A training step of each method",
        "",
        f"{describe_machine()}, {torch.get_num_threads()} threads",
        "",
        f"`{command}`: {args.model}, {args.rows} x {args.tokens} tokens, float32; "
        f"median of {args.rounds} rounds, ratios within a round.",
        "",
        "| method | trainable | optimizer state | step | against lora | peak memory | set-up |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry, f in figures.items():
        lines.append(
            f"| `{entry}` | {f.trainable:,} | {f.state_bytes / 2**20:,.1f} MiB | {f.seconds:.3f} s "
            f"| {f.ratio:.2f} | {f.peak_bytes / 2**30:.2f} GiB | {f.setup_seconds:.1f} s |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        args.output.with_suffix(".md").write_text(text)
        found = {"machine": describe_machine(), "command": command, "rounds": rounds}
        found["figures"] = {entry: asdict(f) for entry, f in figures.items()}
        args.output.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
