"""Fit the step-time model of the simulator on the real engine, one factor varied at a time.

    python benchmarks/step_times.py --model smollm2-135m --output benchmarks/results/step-times.json

Every step of several small loads is timed: sequences, prompt lengths, contexts, numbers and ranks
of adapters differ. Non-negative least squares on relative errors then gives the coefficients.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from common import describe_machine, random_adapters, random_prompts
from gossamer.basemodel.find import resolve
from gossamer.serving.llm import LLM
from gossamer.serving.messages import SamplingParams
from gossamer.serving.simulation.step_model import StepModel, features

# (sequences, prompt tokens, new tokens, rank of each one's own adapter; 0: base)
LOADS = [
    (1, 16, 24, 0),
    (8, 16, 16, 0),
    (32, 16, 16, 0),
    (4, 300, 8, 0),
    (1, 400, 4, 0),
    (16, 100, 8, 0),
    (1, 16, 16, 8),
    (8, 16, 12, 8),
    (16, 16, 12, 64),
    (16, 100, 6, 8),
    (4, 300, 6, 64),
]


def main() -> None:
    """Measure, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", type=float, default=3.0)
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
    """Features and seconds of all steps."""
    folder = resolve(args.model)
    rows: list[tuple[float, ...]] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for rank in (8, 64):
            random_adapters(Path(scratch), folder, 16, rank, prefix=f"r{rank}")
        with LLM(str(folder), adapters=Path(scratch), memory_gib=args.memory) as llm:
            scheduler = llm.engine._scheduler
            learn = scheduler.record_step

            def record_step(step, duration):
                rows.append(features(step))
                seconds.append(duration)
                learn(step, duration)

            scheduler.record_step = record_step
            for number in range(-1, args.rounds):
                for count, prompt, new, rank in LOADS:
                    prompts = random_prompts(folder, count, prompt, seed=time.monotonic_ns())
                    names = [f"r{rank}-{i}" if rank else None for i in range(count)]
                    sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
                    llm.generate(prompts, adapter=names, sampling=sampling)
                if number < 0:
                    # Warmed up, and all adapters that fit are loaded.
                    rows.clear()
                    seconds.clear()
    return rows, seconds


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
