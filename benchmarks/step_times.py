"""Fit the step-time model of the simulator on the real engine, one factor varied at a time.

    python benchmarks/step_times.py --model smollm2-135m --output benchmarks/results/step-times.json

Every step of several small loads is timed: sequences, prompt lengths, contexts, numbers and ranks
of adapters differ. Non-negative least squares on relative errors then gives the coefficients.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from common import describe_machine, random_adapters, random_prompts
from gossamer.basemodel.find import resolve
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.simulation.step_model import StepModel, features

# (sequences, prompt tokens, new tokens, rank of each one's own adapter; 0: base)
LOADS = [
    (1, 16, 16, 0),
    (8, 16, 8, 0),
    (32, 16, 8, 0),
    (2, 200, 4, 0),
    (1, 300, 3, 0),
    (8, 64, 6, 0),
    (1, 16, 8, 8),
    (8, 16, 6, 8),
    (8, 16, 6, 64),
    (4, 100, 4, 64),
]


def main() -> None:
    """Measure, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--memory", type=float, default=1.5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows, seconds = measure(args)
    model, error = fit(rows, seconds)
    print(describe_machine())
    for field in fields(StepModel):
        print(f"{field.name:<16}{getattr(model, field.name):12.3g} s")
    print(f"{len(seconds)} steps, median relative error {100 * error:.0f} %")
    model.save(
        args.output,
        machine=describe_machine(),
        model=args.model,
        steps=len(seconds),
        median_relative_error=round(error, 3),
    )


def measure(args: argparse.Namespace) -> tuple[list[tuple[float, ...]], list[float]]:
    """Features and seconds of all steps: processor time of one thread, which neighbours on the same
    machine change little."""
    folder = resolve(args.model)
    rows: list[tuple[float, ...]] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for rank in (8, 64):
            random_adapters(Path(scratch), folder, 8, rank, prefix=f"r{rank}")
        with LLM(str(folder), adapters=Path(scratch), memory_gib=args.memory, threads=1) as llm:
            run_load(llm, folder, 8, 4, 1, 8)
            run_load(llm, folder, 8, 4, 1, 64)
            scheduler = llm.engine.scheduler
            plan, learn = scheduler.plan, scheduler.record_step
            started, planned = [0.0], [features([])]

            def timed_plan():
                started[0] = time.process_time()
                step = plan()
                planned[0] = features(step)
                return step

            def record_step(step, duration):
                rows.append(planned[0])
                seconds.append(time.process_time() - started[0])
                learn(step, duration)

            scheduler.plan, scheduler.record_step = timed_plan, record_step
            for number in range(args.rounds):
                for load in LOADS:
                    run_load(llm, folder, *load)
                print(f"round {number}: {len(seconds)} steps", file=sys.stderr, flush=True)
    return rows, seconds


def run_load(llm: LLM, folder: Path, count: int, prompt: int, new: int, rank: int) -> None:
    """One batch of equal requests, each with an adapter of its own."""
    prompts = random_prompts(folder, count, prompt, seed=time.monotonic_ns())
    names = [f"r{rank}-{i}" if rank else None for i in range(count)]
    sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    llm.generate(prompts, adapter=names, sampling=sampling)


def fit(rows: list[tuple[float, ...]], seconds: list[float]) -> tuple[StepModel, float]:
    """Coefficients that are not negative, and the median relative error they leave."""
    x, y = np.array(rows), np.array(seconds)
    weighted = x / y[:, None]
    scale = np.maximum(np.linalg.norm(weighted, axis=0), 1e-12)
    a = weighted / scale
    b = np.ones(len(y))
    gram, target = a.T @ a, a.T @ b
    found = np.zeros(x.shape[1])
    # Coordinate descent: the problem is small and convex.
    for _ in range(20_000):
        for k in range(len(found)):
            rest = target[k] - gram[k] @ found + gram[k, k] * found[k]
            found[k] = max(0.0, rest / max(gram[k, k], 1e-12))
    coefficients = found / scale
    names = [field.name for field in fields(StepModel)]
    model = StepModel(**{n: float(f"{c:.4g}") for n, c in zip(names, coefficients, strict=True)})
    error = statistics.median(np.abs(x @ coefficients - y) / y)
    return model, float(error)


if __name__ == "__main__":
    main()
