"""Decode throughput of a batch: this engine against PEFT's mixed batch and plain transformers.

    python benchmarks/decode.py --model smollm2-135m --output benchmarks/results/decode.json

One process, several rounds. A round runs pair after pair; the two of a pair take their steps in
turn (`turns.py`), since a shared machine drifts within seconds. A ratio is the median over pairs of
steps, a throughput that over all steps of a system. Steps: from the one after the prompts on, while
all sequences run.
"""

import argparse
import contextlib
import functools
import itertools
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common import describe_machine, random_adapters, random_prompts
from gossamer.basemodel.find import resolve
from gossamer.llm import LLM
from gossamer.serving.core.messages import Event, Request, SamplingParams, Tokens
from turns import AfterStep, Job, take_turns

Systems = dict[str, Job]
Pairs = dict[tuple[str, str], list[tuple[float, float]]]
"""Seconds of a step of each of two systems."""


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
            systems["transformers base"] = functools.partial(
                theirs, plain, prompts, args.new_tokens, {}
            )
            mixed = load_peft(folder, adapters, names)
            systems["PEFT distinct"] = functools.partial(
                theirs, mixed, prompts, args.new_tokens, {"adapter_names": names}
            )
        if args.systems:
            systems = {name: systems[name] for name in args.systems.split(",")}
        found = run_rounds(systems, args.rounds)
    report(args, found)


def our_systems(
    args: argparse.Namespace,
    folder: Path,
    adapters: Path,
    names: list[str],
    prompts: list[list[int]],
    engines: contextlib.ExitStack,
) -> Systems:
    """This engine without adapters, with idle ones, and with ever more to do.

    The two of a pair need an engine each.
    """
    count = args.sequences
    half = random_adapters(adapters, folder, count, args.rank, dtype=torch.bfloat16, prefix="half")
    dora = random_adapters(adapters, folder, count, args.rank, prefix="dora", dora=True)
    small = random_adapters(adapters, folder, count, 8, prefix="small")
    large = random_adapters(adapters, folder, 1, 64, prefix="large")
    bare = engines.enter_context(LLM(str(folder), memory_gib=args.memory))
    llm, beside = (
        engines.enter_context(LLM(str(folder), adapters=adapters, memory_gib=args.memory))
        for _ in range(2)
    )
    int8 = engines.enter_context(
        LLM(str(folder), adapters=adapters, memory_gib=args.memory, adapter_rows="int8")
    )
    merging = engines.enter_context(
        LLM(str(folder), adapters=adapters, memory_gib=args.memory, merge_hot=True)
    )
    batches: dict[str, tuple[LLM, list[str | None]]] = {
        "bare server": (bare, [None] * count),
        "base": (beside, [None] * count),
        "distinct": (llm, [*names]),
        "distinct bfloat16": (llm, [*half]),
        "distinct int8": (int8, [*names]),
        "one shared": (llm, [names[0]] * count),
        "distinct DoRA": (beside, [*dora]),
        "rank 8": (beside, [*small]),
        "rank 8 with a rank 64": (llm, [*small[1:], *large]),
    }
    systems: Systems = {
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


def ours(
    llm: LLM,
    prompts: list[list[int]],
    adapters: list[str | None],
    count: int,
    after_step: AfterStep = lambda: None,
) -> None:
    """Have the engine answer all prompts."""
    steps = Steps(len(prompts), after_step)
    sampling = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)
    with steps.watched(llm.engine.runner.model):
        for prompt, adapter in zip(prompts, adapters, strict=True):
            request = Request(
                request_id=f"decode-{next(REQUESTS)}",
                prompt_token_ids=tuple(prompt),
                adapter=adapter,
                sampling=sampling,
            )
            llm.engine.submit(request, steps.on_event)
        steps.done.wait()


REQUESTS = itertools.count()


class Steps:
    """Finds the ends of steps where the engine begins to compute the next one."""

    def __init__(self, count: int, after_step: AfterStep) -> None:
        self.done = threading.Event()
        self._count = count
        self._after_step = after_step
        self._num_ended = 0

    def on_event(self, event: Event) -> None:
        """Count the requests that have ended."""
        if not isinstance(event, Tokens):
            self._num_ended += 1
            if self._num_ended == self._count:
                self.done.set()

    @contextlib.contextmanager
    def watched(self, model: Any) -> Iterator[None]:
        """Call `after_step` on the engine's thread before each step in which all sequences decode.

        Events come on another thread, and some time later.
        """
        compute = model.run

        def run(batch: Any) -> Any:
            if len(batch.sampled) == self._count and batch.token_ids.numel() == self._count:
                self._after_step()
            return compute(batch)

        model.run = run
        try:
            yield
        finally:
            model.run = compute


def merged(
    llm: LLM,
    prompts: list[list[int]],
    adapter: str,
    count: int,
    after_step: AfterStep = lambda: None,
) -> None:
    """As `ours` when all name one adapter, and merge mode has merged it."""
    while llm.engine.stats().merged_adapter != adapter:
        ours(llm, prompts, [adapter] * len(prompts), count)
    ours(llm, prompts, [adapter] * len(prompts), count, after_step)


def theirs(
    model,
    prompts: list[list[int]],
    count: int,
    more: dict[str, list[str]],
    after_step: AfterStep = lambda: None,
) -> None:
    """Have `generate` answer all prompts."""

    def end_step(input_ids, scores):
        after_step()
        return scores

    with torch.inference_mode():
        model.generate(
            input_ids=torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.int64),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            logits_processor=[end_step],
            **more,
        )


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


def run_rounds(systems: Systems, count: int) -> Pairs:
    """Each system once to warm up, then `count` rounds of all pairs."""
    for system in systems.values():
        system(lambda: None)
    found: Pairs = {pair: [] for pair in PAIRS if set(pair) <= set(systems)}
    for round_ in range(count):
        for pair, steps in found.items():
            new = take_turns(*(systems[name] for name in pair))
            steps += new
            print(f"round {round_}: {' / '.join(pair)} {ratio(new):.2f}x", file=sys.stderr)
    return found


def ratio(steps: list[tuple[float, float]]) -> float:
    """Of the first one's throughput to that of the second."""
    return statistics.median(second / first for first, second in steps)


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


def report(args: argparse.Namespace, found: Pairs) -> None:
    """Print median rates and ratios; write them where asked."""
    seconds: dict[str, list[float]] = {}
    for pair, steps in found.items():
        for name, column in zip(pair, zip(*steps, strict=True), strict=True):
            seconds.setdefault(name, []).extend(column)
    rates = {name: args.sequences / statistics.median(all_) for name, all_ in seconds.items()}
    ratios = {" / ".join(pair): ratio(steps) for pair, steps in found.items()}
    print(describe_machine())
    for name, rate in rates.items():
        print(f"{name:<32}{rate:9.1f} tokens/s")
    for name, value in ratios.items():
        print(f"{name:<52}{value:9.2f}x")
    if args.output:
        settings = {k: str(v) for k, v in vars(args).items()}
        text = {"machine": describe_machine(), "command": " ".join(sys.argv), "settings": settings}
        text |= {"rates": rates, "ratios": ratios, "seconds": {
            " / ".join(pair): [[round(s, 5) for s in both] for both in steps]
            for pair, steps in found.items()
        }}  # fmt: skip
        args.output.write_text(json.dumps(text) + "\n")


if __name__ == "__main__":
    main()
