"""Scheduling under overload: order, refusals and fairness, simulated and on the real engine.

    python benchmarks/scheduling.py --output benchmarks/results/scheduling
    python benchmarks/scheduling.py --real --model smollm2-135m --output benchmarks/results/overload

The first replays S-LoRA's workloads (arXiv 2311.03285) by the project's own scheduler on a
pretended 7B model and small GPU, and puts the published figures of the same settings beside its
own. The second offers a real engine twice the load that it can carry. Each writes JSON, a table and
a figure.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib

from common import describe_machine
from gossamer.serving.loadtest.workload import Workload
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy
from gossamer.serving.simulation.outcomes import Outcome, Summary, percentile, summarize
from gossamer.serving.simulation.simulator import Machine, Replay, Simulator
from gossamer.serving.simulation.step_model import StepModel

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SLO = 6.0
RANKS = (64, 32, 16, 8)
# A 7B model on a 24 GB GPU: memory for about 16,000 tokens, and steps that give the published 1.85
# requests/s without adapters, 1.74 with one and 1.58 with 200 (A10G, setting S2, two a second).
SMALL_GPU = Machine(
    step=StepModel(
        base=0.026,
        prompt_token=0.00024,
        decode=0.00045,
        context_token=1.1e-6,
        rank=5.5e-6,
        any_adapter=0.004,
    ),
    num_blocks=1000,
    block_bytes=8 * 2**20,
    bytes_per_rank=2 * 2**20,
    base_bytes=13_500_000_000,
    load_bytes_per_second=8e9,
    max_batch_tokens=2048,
    max_running=256,
)
POLICIES = {
    "order of arrival": None,
    "newest first": FirstTokenPolicy(slo=SLO, order="newest", refuses=False),
    "early refusal": FirstTokenPolicy(slo=SLO),
}
CVS = (1.0, 2.0, 4.0, 6.0, 8.0)
PUBLISHED = {
    "order of arrival": (0.27, 0.26, 0.43, 0.41, 0.32),
    "newest first": (0.79, 0.70, 0.64, 0.60, 0.50),
    "early refusal": (0.86, 0.82, 0.74, 0.69, 0.64),
}
COUNTS = {0: 1.85, 1: 1.74, 20: 1.68, 50: 1.61, 100: 1.59, 200: 1.58}
COLOURS = {"order of arrival": "#b5443c", "newest first": "#c98a1b", "early refusal": "#1f7a74"}


def main() -> None:
    """Run one of the two and write what it gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true", help="on the real engine")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the real load")
    parser.add_argument("--output", type=Path, required=True, help="path without an ending")
    args = parser.parse_args()
    if args.real:
        from overload import run_real

        run_real(args.model, args.seconds, args.output)
    else:
        simulate(args.output)


def simulate(output: Path) -> None:
    """The published experiments, by the scheduler of this project."""
    overload = {
        name: [replay(cv=cv, promise=promise) for cv in CVS] for name, promise in POLICIES.items()
    }
    counts = {count: replay(adapters=count) for count in COUNTS}
    cluster = {
        d: replay(adapters=32, machine=replace(SMALL_GPU, adapter_cluster=d)) for d in (0, 2, 8)
    }
    flood = {name: flooded(fair) for name, fair in (("one queue", False), ("fair", True))}
    lines = [*overload_table(overload), *count_table(counts), *cluster_table(cluster)]
    lines += flood_table(flood)
    command = " ".join(["python", *sys.argv])
    head = [f"`{command}` on {describe_machine()}", ""]
    output.with_suffix(".md").write_text("\n".join(["# Scheduling, simulated", "", *head, *lines]))
    figures = {
        "overload": {n: [asdict(s) for s, _ in runs] for n, runs in overload.items()},
        "adapters": {n: asdict(s) for n, (s, _) in counts.items()},
        "cluster": {n: asdict(s) for n, (s, _) in cluster.items()},
        "machine": asdict(SMALL_GPU),
    }
    output.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(overload, counts, flood, output.with_suffix(".png"))
    print("\n".join(lines))


def replay(
    *,
    cv: float = 1.0,
    adapters: int = 200,
    promise: FirstTokenPolicy | None = None,
    machine: Machine = SMALL_GPU,
) -> tuple[Summary, Replay]:
    """Setting S2 at two requests a second for five minutes."""
    ranks = [RANKS[i % len(RANKS)] for i in range(adapters)] or [0]
    trace = Workload(adapters=len(ranks), cv=cv).trace()
    found = Simulator(machine, ranks, promise=promise).run(trace)
    print(f"cv {cv:g}, {adapters} adapters: {found.steps} steps", file=sys.stderr, flush=True)
    return summarize(found.outcomes, SLO), found


def flooded(fair: bool) -> list[Outcome]:
    """A quiet tenant's requests, one in sixteen of what is twice too much."""
    workload = Workload(adapters=20, rate=3.5, duration=150)
    simulator = Simulator(SMALL_GPU, [RANKS[i % 4] for i in range(20)])
    trace = workload.trace()
    quiet = {id(arrival) for arrival in trace[::16]}
    found = simulator.run(
        trace, (lambda a: "quiet" if id(a) in quiet else "flood") if fair else None
    )
    return found.outcomes[::16]


def overload_table(overload: dict[str, list[tuple[Summary, Replay]]]) -> list[str]:
    """Attainment by burstiness; the published figure in brackets."""
    lines = [
        "Share of requests with the first token within 6 s (published figure in brackets):",
        "",
        "| policy | " + " | ".join(f"cv {cv:g}" for cv in CVS) + " | of the admitted | tokens/s |",
        "| --- |" + " --- |" * (len(CVS) + 2),
    ]
    for name, runs in overload.items():
        cells = [
            f"{s.attainment:.2f} ({p:.2f})" for (s, _), p in zip(runs, PUBLISHED[name], strict=True)
        ]
        least = min(s.attainment_of_admitted for s, _ in runs)
        pace = [sum(o.output_tokens for o in r.outcomes) / r.busy_seconds for _, r in runs]
        rates = f"{pace[0]:.0f} to {pace[-1]:.0f}"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | >= {least:.2f} | {rates} |")
    return [*lines, "", "tokens/s: new tokens per second of computing, at cv 1 and 8.", ""]


def count_table(counts: dict[int, tuple[Summary, Replay]]) -> list[str]:
    """Throughput by number of adapters."""
    lines = [
        "Throughput by number of adapters, two requests a second offered:",
        "",
        "| adapters | requests/s | published |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {n} | {s.throughput:.2f} | {COUNTS[n]:.2f} |" for n, (s, _) in counts.items()]
    return [*lines, ""]


def cluster_table(cluster: dict[int, tuple[Summary, Replay]]) -> list[str]:
    """What clustering does."""
    lines = [
        "Adapter clustering with 32 adapters:",
        "",
        "| d | distinct adapters in a step | requests/s | in time |",
        "| --- | --- | --- | --- |",
    ]
    for d, (s, r) in cluster.items():
        mean = r.adapters_in_steps / r.steps
        lines.append(f"| {d or 'off'} | {mean:.1f} | {s.throughput:.2f} | {s.attainment:.2f} |")
    return [*lines, ""]


def flood_table(flood: dict[str, list[Outcome]]) -> list[str]:
    """First-token latency of the quiet tenant."""
    lines = [
        "First token of a quiet tenant beside a flood of twice the capacity, seconds:",
        "",
        "| queue | p50 | p99 | most |",
        "| --- | --- | --- | --- |",
    ]
    for name, outcomes in flood.items():
        waits = sorted(o.wait or 0.0 for o in outcomes)
        p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
        lines.append(f"| {name} | {p50:.1f} | {p99:.1f} | {waits[-1]:.1f} |")
    return [*lines, ""]


def draw(
    overload: dict[str, list[tuple[Summary, Replay]]],
    counts: dict[int, tuple[Summary, Replay]],
    flood: dict[str, list[Outcome]],
    path: Path,
) -> None:
    """Three panels."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for name, runs in overload.items():
        colour = COLOURS[name]
        left.plot(CVS, [s.attainment for s, _ in runs], "o-", color=colour, label=name)
        left.plot(CVS, PUBLISHED[name], "x:", color=colour, alpha=0.6)
    left.plot([], [], "x:", color="grey", label="published (S-LoRA)")
    left.set(xlabel="burstiness (cv of gaps)", ylabel="first token within 6 s", ylim=(0, 1))
    left.set_title("Overload: who is in time")
    left.legend(fontsize=8)
    names = [str(n) for n in counts]
    middle.plot(
        names, [s.throughput for s, _ in counts.values()], "o-", color="#1f7a74", label="simulated"
    )
    middle.plot(names, list(COUNTS.values()), "x:", color="grey", label="published (S-LoRA)")
    middle.set(xlabel="adapters", ylabel="requests/s", ylim=(0, 2.1))
    middle.set_title("Throughput by number of adapters")
    middle.legend(fontsize=8, loc="lower left")
    for (name, outcomes), colour in zip(flood.items(), ("#b5443c", "#1f7a74"), strict=True):
        times = [o.arrived for o in outcomes]
        right.plot(times, [o.wait for o in outcomes], "o-", ms=3, color=colour, label=name)
    right.set(xlabel="arrival, seconds", ylabel="first token, seconds", yscale="log")
    right.set_title("A quiet tenant beside a flood")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
