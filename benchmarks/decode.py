"""Decode throughput of a batch: this engine against PEFT's mixed batch and plain transformers.

    python benchmarks/decode.py --model smollm2-135m --output benchmarks/results/decode.json

One process, several rounds. A round runs pair after pair, the two of a pair directly behind each
other and in changing order, since a shared machine drifts within a minute; a ratio is the median
over the pairs, a throughput the median over all runs. Decode throughput: tokens per second from the
step after the prompts to the last one, all sequences of the same length.
"""

import argparse
import contextlib
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import describe_machine, random_adapters, random_prompts
from gossamer.basemodel.find import resolve
from gossamer.serving.llm import LLM
from gossamer.serving.messages import Event, Request, SamplingParams, Tokens

System = Callable[[], float]


def main() -> None:
    """Run all systems and print the table."""
    args = parse_args()
    folder = resolve(args.model)
    prompts = random_prompts(folder, args.sequences, args.prompt_tokens)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as engines:
        adapters = Path(scratch)
        names = random_adapters(adapters, folder, args.sequences, args.rank)
        systems = our_systems(args, folder, adapters, names, prompts, engines)
        if not args.only_ours:
            plain = load(folder)
            systems["transformers base"] = lambda: theirs(plain, prompts, args.new_tokens)
            mixed = load_peft(folder, adapters, names)
            systems["PEFT distinct"] = lambda: theirs(
                mixed, prompts, args.new_tokens, adapter_names=names
            )
        if args.systems:
            systems = {name: systems[name] for name in args.systems.split(",")}
        runs = run_rounds(systems, args.rounds)
    report(args, runs)


def our_systems(
    args: argparse.Namespace,
    folder: Path,
    adapters: Path,
    names: list[str],
    prompts: list[list[int]],
    engines: contextlib.ExitStack,
) -> dict[str, System]:
    """This engine without adapters, with idle ones, and with ever more to do."""
    count = args.sequences
    half = random_adapters(adapters, folder, count, args.rank, dtype=torch.bfloat16, prefix="half")
    dora = random_adapters(adapters, folder, count, args.rank, prefix="dora", dora=True)
    small = random_adapters(adapters, folder, count, 8, prefix="small")
    large = random_adapters(adapters, folder, 1, 64, prefix="large")
    bare = engines.enter_context(LLM(str(folder), memory_gib=args.memory))
    llm = engines.enter_context(LLM(str(folder), adapters=adapters, memory_gib=args.memory))
    int8 = engines.enter_context(
        LLM(str(folder), adapters=adapters, memory_gib=args.memory, adapter_rows="int8")
    )
    merging = engines.enter_context(
        LLM(str(folder), adapters=adapters, memory_gib=args.memory, merge_hot=True)
    )
    batches: dict[str, tuple[LLM, list[str | None]]] = {
        "bare server": (bare, [None] * count),
        "base": (llm, [None] * count),
        "distinct": (llm, [*names]),
        "distinct bfloat16": (llm, [*half]),
        "distinct int8": (int8, [*names]),
        "one shared": (llm, [names[0]] * count),
        "distinct DoRA": (llm, [*dora]),
        "rank 8": (llm, [*small]),
        "rank 8 with a rank 64": (llm, [*small[1:], *large]),
    }
    systems: dict[str, System] = {
        name: functools.partial(ours, engine, prompts, chosen, args.new_tokens)
        for name, (engine, chosen) in batches.items()
    }
    systems["one shared merged"] = functools.partial(
        merged, merging, prompts, names[0], args.new_tokens
    )
    return systems


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of the block pool")
    parser.add_argument("--systems", help="only these rows of the table, separated by commas")
    parser.add_argument("--only-ours", action="store_true", help="leave the peers out")
    parser.add_argument("--output", type=Path, help="write the figures there as JSON")
    return parser.parse_args()


def ours(llm: LLM, prompts: list[list[int]], adapters: list[str | None], count: int) -> float:
    """Decode throughput of the engine."""
    times: dict[str, list[float]] = {}
    finals: list[Event] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Tokens):
            times[event.request_id].append(time.perf_counter())
        else:
            finals.append(event)

    sampling = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)
    for index, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        request_id = f"{time.monotonic_ns()}-{index}"
        times[request_id] = []
        request = Request(
            request_id=request_id,
            prompt_token_ids=tuple(prompt),
            adapter=adapter,
            sampling=sampling,
        )
        llm.engine.submit(request, on_event)
    while len(finals) < len(prompts):
        time.sleep(0.005)
    start = max(stamps[0] for stamps in times.values())
    decoded = [stamp for stamps in times.values() for stamp in stamps if stamp > start]
    return len(decoded) / (max(decoded) - start)


def merged(llm: LLM, prompts: list[list[int]], adapter: str, count: int) -> float:
    """Decode throughput when all name one adapter, and merge mode has merged it."""
    while llm.engine.stats().merged_adapter != adapter:
        ours(llm, prompts, [adapter] * len(prompts), count)
    return ours(llm, prompts, [adapter] * len(prompts), count)


def theirs(model, prompts: list[list[int]], count: int, **more) -> float:
    """Decode throughput of `generate`, by the times of its steps."""
    stamps: list[float] = []

    def stamp(input_ids, scores):
        stamps.append(time.perf_counter())
        return scores

    with torch.inference_mode():
        model.generate(
            input_ids=torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.int64),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            logits_processor=[stamp],
            **more,
        )
    return len(prompts) * (len(stamps) - 1) / (stamps[-1] - stamps[0])


def load(folder: Path):
    """The base model in transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_peft(folder: Path, adapters: Path, names: list[str]):
    """The base model in PEFT with all adapters loaded."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(folder), adapters / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(adapters / name, adapter_name=name)
    return model.eval()


def run_rounds(systems: dict[str, System], count: int) -> list[dict[str, float]]:
    """Each system once to warm up, then `count` rounds of all pairs; the rates of each pair."""
    for system in systems.values():
        system()
    pairs = [pair for pair in PAIRS if set(pair) <= set(systems)]
    found = []
    for round_ in range(count):
        for pair in pairs:
            rates = {name: systems[name]() for name in (pair if round_ % 2 else reversed(pair))}
            text = ", ".join(f"{name} {rate:.1f} tokens/s" for name, rate in rates.items())
            print(f"round {round_}: {text}", file=sys.stderr, flush=True)
            found.append(rates)
    return found


PAIRS = [
    ("base", "bare server"),
    ("distinct", "base"),
    ("distinct bfloat16", "base"),
    ("distinct int8", "base"),
    ("one shared", "base"),
    ("one shared merged", "base"),
    ("one shared merged", "one shared"),
    ("distinct DoRA", "distinct"),
    ("rank 8 with a rank 64", "rank 8"),
    ("base", "transformers base"),
    ("distinct", "PEFT distinct"),
]


def report(args: argparse.Namespace, runs: list[dict[str, float]]) -> None:
    """Print median rates and ratios; write them where asked."""
    names = dict.fromkeys(name for pair in PAIRS for name in pair)
    medians = {
        name: statistics.median(rates)
        for name in names
        if (rates := [run[name] for run in runs if name in run])
    }
    ratios = {
        f"{a} / {b}": statistics.median(found)
        for a, b in PAIRS
        if (found := [run[a] / run[b] for run in runs if set(run) == {a, b}])
    }
    print(describe_machine())
    for name, rate in medians.items():
        print(f"{name:<32}{rate:9.1f} tokens/s")
    for name, ratio in ratios.items():
        print(f"{name:<52}{ratio:9.2f}x")
    if args.output:
        settings = {k: str(v) for k, v in vars(args).items()}
        found = {"machine": describe_machine(), "command": " ".join(sys.argv)}
        found |= {"settings": settings, "runs": runs, "medians": medians, "ratios": ratios}
        args.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
