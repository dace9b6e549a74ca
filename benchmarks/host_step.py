"""The part of a step that is no kernel: building its batch, choosing and taking in its tokens.

python benchmarks/host_step.py --sequences 64

Nothing of a model is computed. Each sequence has an adapter of rank 16 with tables as for
Llama-3-8B (224 modules, 7,168 rows), so that what is measured on a laptop is what a GPU would wait
for. Prints one JSON object: medians in milliseconds, of a step like the one before and of one in
which one adapter is another one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import Request, SamplingParams
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.device.cpu import CpuFetch
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.threads import ThreadLowering
from gossamer.serving.runner.sampler import SamplingState, choose
from gossamer.serving.scheduler.step import ScheduledChunk

MODULES, RANK = 224, 16
CONTEXT, BLOCK_TOKENS, VOCABULARY = 512, 16, 32_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    spare = [adapter(number) for number in range(args.steps)]
    sequences = [sequence(number, adapter(number)) for number in range(args.sequences)]
    lowering = ThreadLowering(block_tokens=BLOCK_TOKENS, num_workers=2)
    builder = BatchBuilder(block_tokens=BLOCK_TOKENS, lowering=lowering)

    def build() -> None:
        builder.build([ScheduledChunk(each, 1) for each in sequences])

    def build_with_another() -> None:
        sequences[0].adapter = spare.pop()
        build()

    build()
    figures = {
        "build": median(build, args.steps),
        "build, one adapter changed": median(build_with_another, args.steps),
        **{
            f"sample, {name}": median(sampler(args.sequences, params), args.steps)
            for name, params in {
                "greedy": SamplingParams(temperature=0),
                "temperature 1": SamplingParams(seed=0),
                "top_p 0.9": SamplingParams(seed=0, temperature=0.7, top_p=0.9),
                "top_k 40": SamplingParams(seed=0, top_k=40),
            }.items()
        },
    }
    print(json.dumps({name: round(1e3 * value, 3) for name, value in figures.items()}, indent=1))


def median(call: Callable[[], object], steps: int) -> float:
    """Seconds of a call."""
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def sampler(count: int, params: SamplingParams) -> Callable[[], object]:
    """A call that chooses `count` tokens from logits as peaked as a model's."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, VOCABULARY, generator=generator)
    logits[:, :8] += 12
    states = [SamplingState(params, ()) for _ in range(count)]
    return lambda: choose(logits.clone(), states, CpuFetch).read()


def adapter(number: int) -> AdapterEntry:
    """A resident adapter whose rows are nowhere."""
    rows = 2 * RANK * MODULES
    table = LoraTable(
        first_row=2 * RANK * np.arange(MODULES, dtype=np.int64),
        rank=np.full(MODULES, RANK, dtype=np.int32),
        scale=np.ones(MODULES, dtype=np.float32),
        offsets=4096 * np.arange(number, number + rows, dtype=np.int64),
        row_scale=np.ones(rows, dtype=np.float32),
        format=RowFormat.BFLOAT16,
    )
    entry = AdapterEntry(name=f"a{number}", path=Path(), signature=())
    entry.start_reading()
    entry.finish_reading(table)
    entry.start_placing([])
    entry.finish_placing(Resident(lora=table), 0.0)
    return entry


def sequence(number: int, entry: AdapterEntry) -> Sequence:
    """A sequence whose last token is to be computed."""
    blocks = CONTEXT // BLOCK_TOKENS + 1
    made = Sequence(
        request=Request(request_id=str(number), prompt_token_ids=tuple(range(CONTEXT))),
        adapter=entry,
        max_new_tokens=64,
        token_ids=[*range(CONTEXT), 7],
        blocks=list(range(number * blocks, (number + 1) * blocks)),
    )
    made.num_computed = CONTEXT
    return made


if __name__ == "__main__":
    main()
