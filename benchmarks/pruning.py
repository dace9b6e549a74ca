"""LoRAPrune on a model: size, held-out loss and speed, against pruning by magnitude and by chance.

    python benchmarks/pruning.py quality --train FILE --test FILE --output DIR
    python benchmarks/pruning.py speed --output DIR
    python benchmarks/pruning.py report --output DIR --results benchmarks/results/pruning

`quality` trains, for each share, criterion and seed, one run of `loraprune` in DIR, and plain LoRA
of the same steps. A run that is done is left alone, one that was stopped goes on: call it again.
Pruning ends after half of the steps, the other half recovers; losses are of the untrained model, of
the model when the last group has just gone, and of the result. `speed` serves the smaller models of
the first seed and the base in turn, and counts decoded tokens per second: on a quiet machine.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import describe_machine, random_prompts
from gossamer.basemodel.find import resolve
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import read_metrics
from gossamer.training.outputs.run_record import FILE as RUN_FILE
from gossamer.training.run import tune

CRITERIA = ("lora_gradient", "magnitude", "random")
DENSE = "lora"
FACTS, SPEED = "facts.json", "speed.json"


def main() -> None:
    """Do the part that the command line names."""
    args = parse_args()
    {"quality": quality, "speed": speed, "report": report}[args.part](args)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("quality", "speed", "report"))
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--train", help="training rows; for quality")
    parser.add_argument("--test", type=Path, help="held-out rows; for quality")
    parser.add_argument("--test-rows", type=int, default=36)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=80, help="an even number")
    parser.add_argument("--rows", type=int, default=4, help="per step")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--interval", type=int, default=4)
    parser.add_argument("--criteria", nargs="+", default=CRITERIA, choices=CRITERIA)
    parser.add_argument(
        "--ranking",
        default="local",
        choices=("local", "global"),
        help="global: what counts least in all layers together goes",
    )
    parser.add_argument("--kv-heads", type=int, help="of a layer; unset: read from the model")
    parser.add_argument("--sequences", type=int, default=16, help="for speed")
    parser.add_argument("--rounds", type=int, default=5, help="for speed")
    parser.add_argument("--memory", type=float, default=0.5, help="GiB of each pool; for speed")
    parser.add_argument("--results", type=Path, help="for report: writes RESULTS.md and .json")
    return parser.parse_args()


def quality(args: argparse.Namespace) -> None:
    """Train all runs that are not done yet."""
    args.output.mkdir(parents=True, exist_ok=True)
    held_out = args.output / "held-out.jsonl"
    if not held_out.is_file():
        lines = args.test.read_text().splitlines(keepends=True)
        held_out.write_text("".join(lines[: args.test_rows]))
    facts = {
        "machine": describe_machine(),
        # Paths of this machine say nothing elsewhere.
        "command": " ".join(
            ["python benchmarks/pruning.py", *(Path(word).name for word in sys.argv[1:])]
        ),
        "steps": args.steps, "rows": args.rows, "rate": args.rate, "seeds": args.seeds,
        "test_rows": args.test_rows,
    }  # fmt: skip
    (args.output / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    for name, seed, method in planned(args):
        folder = args.output / f"{name}-seed{seed}"
        if is_done(folder):
            continue
        began = time.perf_counter()
        if any(folder.glob("checkpoint*")) or any(folder.glob("checkpoints/*")):
            tune(output=folder, resume=True, listener=Listener())
        else:
            train(args, folder, held_out, seed, method)
        print(f"{folder.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def planned(args: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, seed and method settings of each run; first the first seed of all."""
    kv_heads = args.kv_heads or _kv_heads(args.model)
    for seed in args.seeds:
        for share in sorted(args.shares, reverse=True):
            for criterion in args.criteria:
                settings = {
                    "method": "loraprune",
                    "mlp_ratio": share,
                    # Of each layer's few heads a share may be less than one; then all stay.
                    "head_ratio": share if args.ranking == "global" or int(share * kv_heads) else 0,
                    "ranking": args.ranking,
                    "criterion": criterion,
                    "interval": args.interval,
                    "recovery_share": 0.5,
                }
                yield f"{criterion}-{share:g}", seed, settings
        yield DENSE, seed, {"method": "lora"}


def train(
    args: argparse.Namespace, folder: Path, held_out: Path, seed: int, method: dict[str, Any]
) -> None:
    """Train one run, evaluated at the start, when pruning ends, and at the end."""
    tune(
        args.model,
        args.train,
        folder,
        eval_data=str(held_out),
        max_steps=args.steps,
        batch_size=args.rows,
        max_length=args.max_length,
        learning_rate=args.rate,
        eval_every=args.steps // 2,
        save_every=args.steps // 4,
        rank=8,
        alpha=16,
        seed=seed,
        overwrite=folder.exists(),
        listener=Listener(),
        **method,
    )


def is_done(folder: Path) -> bool:
    """Whether a run has its result."""
    record = folder / RUN_FILE
    return record.is_file() and "result:" in record.read_text()


def _kv_heads(model: str) -> int:
    config = json.loads((resolve(model) / "config.json").read_text())
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def losses(folder: Path) -> list[float]:
    """Held-out losses: before training, when pruning ends, at the end."""
    return [record["eval_loss"] for record in read_metrics(folder) if "eval_loss" in record]


def parameters(folder: Path) -> int:
    """Number of weights of the model in a folder, tied ones once; those of an adapter's base."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def speed(args: argparse.Namespace) -> None:
    """Decode with the base and each smaller model in turn; rounds in one process."""
    folders = {"base": resolve(args.model)}
    for name, seed, method in planned(args):
        folder = args.output / f"{name}-seed{seed}"
        if method.get("criterion") == CRITERIA[0] and seed == args.seeds[0] and is_done(folder):
            folders[name] = folder
    figures: dict[str, list[float]] = {name: [] for name in folders}
    with contextlib.ExitStack() as stack:
        engines = {
            name: stack.enter_context(LLM(str(folder), memory_gib=args.memory))
            # The base last: how many programs oneDNN keeps is set by the first.
            for name, folder in reversed(folders.items())
        }
        for round_ in range(-1, args.rounds):
            for name, llm in engines.items():
                rate = decode_rate(llm, folders["base"], args.sequences)
                if round_ >= 0:
                    figures[name].append(rate)
                    print(f"{name}: {rate:.1f} tokens/s", file=sys.stderr, flush=True)
    found = {"machine": describe_machine(), "sequences": args.sequences, "tokens_per_s": figures}
    (args.output / SPEED).write_text(json.dumps(found, indent=2) + "\n")


def decode_rate(llm: LLM, base: Path, sequences: int, tokens: int = 64) -> float:
    """Tokens per second of a batch of short random prompts, prefill included."""
    prompts = random_prompts(base, sequences, 8)
    sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    began = time.perf_counter()
    llm.generate(prompts, sampling=sampling)
    return sequences * tokens / (time.perf_counter() - began)


def report(args: argparse.Namespace) -> None:
    """Write the table of what is done."""
    facts = json.loads((args.output / FACTS).read_text())
    args.seeds = facts["seeds"]
    base = parameters(resolve(args.model))
    rows: dict[str, dict[str, Any]] = {}
    for name, seed, _ in planned(args):
        folder = args.output / f"{name}-seed{seed}"
        if not is_done(folder):
            continue
        row = rows.setdefault(name, {"parameters": parameters(folder) or base, "losses": []})
        row["losses"].append(losses(folder))
    timed = args.output / SPEED
    rates = json.loads(timed.read_text())["tokens_per_s"] if timed.is_file() else {}
    text = [
        f"# Pruning {args.model}", "", facts["machine"], "", f"`{facts['command']}`", "",
        f"{facts['steps']} steps of {facts['rows']} rows, learning rate {facts['rate']:g}, "
        f"held-out loss of {facts['test_rows']} rows; mean over the seeds, and their range.", "",
        "| run | parameters | of the base | untrained | pruned | recovered | seeds | tokens/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in rows.items():
        columns = [_spread(values) for values in zip(*row["losses"], strict=True)]
        rate = rates.get("base" if name == DENSE else name)
        text.append(
            f"| {name} | {row['parameters']:,} | {row['parameters'] / base:.1%} | "
            f"{' | '.join(columns)} | {len(row['losses'])} | "
            f"{f'{statistics.median(rate):.0f}' if rate else ''} |"
        )
    print("\n".join(text))
    if args.results:
        args.results.with_suffix(".md").write_text("\n".join(text) + "\n")
        found = {**facts, "runs": rows, "tokens_per_s": rates}
        args.results.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


def _spread(values: tuple[float, ...]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f}" + (f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
