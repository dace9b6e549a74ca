"""The part of `scheduling.py` that runs on a real engine."""

import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt

from common import describe_machine, random_adapters
from gossamer.basemodel.find import resolve
from gossamer.llm import LLM
from gossamer.serving.core.messages import Event, Failed, Request, SamplingParams, Tokens
from gossamer.serving.loadtest.workload import Arrival, Workload
from gossamer.serving.simulation.outcomes import Outcome, percentile, summarize

ADAPTERS = 8
OVERLOAD = 2.0
PROMISE = 3.0


class Player:
    """Sends requests to an engine and notes what became of them."""

    def __init__(self, llm: LLM, names: list[str]) -> None:
        self._llm = llm
        self._names = names
        self._vocabulary = len(llm.engine.tokenizer)
        self._rng = random.Random(1)
        self._numbers = iter(range(10**9))

    def send(self, arrival: Arrival, start: float, tenant: str = "default") -> Outcome:
        """Submit one; its outcome fills itself in."""
        outcome = Outcome(
            arrived=time.monotonic() - start, prompt_tokens=arrival.prompt_tokens, tenant=tenant
        )

        def on_event(event: Event) -> None:
            now = time.monotonic() - start
            if isinstance(event, Tokens):
                outcome.first_token = outcome.first_token or now
                outcome.output_tokens += len(event.token_ids)
            elif isinstance(event, Failed):
                outcome.refused = True
            else:
                outcome.finished = now

        prompt = tuple(self._rng.randrange(self._vocabulary) for _ in range(arrival.prompt_tokens))
        request = Request(
            request_id=f"play-{next(self._numbers)}",
            prompt_token_ids=prompt,
            adapter=self._names[arrival.adapter],
            sampling=SamplingParams(
                max_tokens=arrival.output_tokens, temperature=0, ignore_eos=True
            ),
            tenant=tenant,
        )
        self._llm.engine.submit(request, on_event)
        return outcome

    def play(self, trace: list[Arrival], tenant_of: Callable[[int], str]) -> list[Outcome]:
        """A whole trace, each request at its time; returns when all have ended."""
        start = time.monotonic()
        outcomes = []
        for number, arrival in enumerate(trace):
            time.sleep(max(0.0, start + arrival.time - time.monotonic()))
            outcomes.append(self.send(arrival, start, tenant_of(number)))
        while any(o.finished is None and not o.refused for o in outcomes):
            time.sleep(0.05)
        return outcomes


def lengths() -> dict[str, int]:
    """Short requests, so that many come in little time."""
    return {"min_prompt": 16, "max_prompt": 64, "min_output": 8, "max_output": 32}


def run_real(model: str, seconds: float, output: Path) -> None:
    """Overload in order of arrival and with a promise; a flood in one queue and with fairness."""
    folder = resolve(model)
    everyone = lambda number: "default"  # noqa: E731
    with tempfile.TemporaryDirectory() as scratch:
        names = random_adapters(Path(scratch), folder, ADAPTERS, 8)
        options = {"adapters": Path(scratch), "memory_gib": 2.0, "max_running": 32}
        with LLM(str(folder), **options) as llm:
            rate = capacity(Player(llm, names))
            print(f"capacity {rate:.2f} requests/s", file=sys.stderr, flush=True)
            load = Workload(
                adapters=ADAPTERS, rate=OVERLOAD * rate, duration=seconds, seed=2, **lengths()
            ).trace()
            fifo = Player(llm, names).play(load, everyone)
            flood = {
                "one queue": flooded(Player(llm, names), rate, "flood"),
                "fair": flooded(Player(llm, names), rate, "quiet"),
            }
        with LLM(str(folder), first_token_slo=PROMISE, **options) as llm:
            capacity(Player(llm, names))
            refusing = Player(llm, names).play(load, everyone)
    report(rate, {"order of arrival": fifo, "early refusal": refusing}, flood, output)


def capacity(player: Player) -> float:
    """Requests per second with a full batch; adapters are loaded by it."""
    trace = Workload(adapters=ADAPTERS, rate=1000, duration=0.096, seed=1, **lengths()).trace()
    player.play(trace[:16], lambda number: "default")
    started = time.monotonic()
    player.play(trace, lambda number: "default")
    return len(trace) / (time.monotonic() - started)


def flooded(player: Player, rate: float, quiet: str) -> list[Outcome]:
    """First tokens of a tenant that asks now and then, beside 20 seconds' work sent at once."""
    workload = Workload(adapters=ADAPTERS, rate=1000, duration=rate * 0.02, seed=3, **lengths())
    flood = threading.Thread(target=player.play, args=(workload.trace(), lambda number: "flood"))
    flood.start()
    start = time.monotonic()
    outcomes = []
    for _ in range(12):
        time.sleep(1.2)
        outcomes.append(player.send(workload.trace()[0], start, quiet))
    flood.join()
    while any(outcome.finished is None for outcome in outcomes):
        time.sleep(0.05)
    return outcomes


def report(
    rate: float, runs: dict[str, list[Outcome]], flood: dict[str, list[Outcome]], output: Path
) -> None:
    """Table, figure, JSON."""
    lines = [
        "# Overload on the real engine",
        "",
        f"`{' '.join(['python', *sys.argv])}` on {describe_machine()}",
        "",
        f"It carries {rate:.1f} requests/s of this load; {OVERLOAD:g} times as many were sent. "
        f"Promised: the first token within {PROMISE:g} s.",
        "",
        "| policy | requests | refused | in time | of the admitted | first token p50, p99 | new "
        "tokens/s |",
        "| --- |" + " --- |" * 6,
    ]
    for name, outcomes in runs.items():
        s = summarize(outcomes, PROMISE)
        lines.append(
            f"| {name} | {s.requests} | {s.refused} | {s.attainment:.2f} | "
            f"{s.attainment_of_admitted:.2f} | {s.first_token_p50:.1f} s, "
            f"{s.first_token_p99:.1f} s | {s.output_rate:.0f} |"
        )
    lines += ["", "A quiet tenant beside a flood of 20 seconds' work; its first tokens:", ""]
    lines += ["| queue | p50 | most |", "| --- | --- | --- |"]
    for name, outcomes in flood.items():
        waits = sorted(o.wait or 0.0 for o in outcomes)
        lines.append(f"| {name} | {percentile(waits, 0.5):.2f} s | {waits[-1]:.2f} s |")
    print("\n".join(lines))
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    figures = {name: asdict(summarize(o, PROMISE)) for name, o in runs.items()}
    figures["flood"] = {name: [o.wait for o in outcomes] for name, outcomes in flood.items()}
    output.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(runs, flood, output.with_suffix(".png"))


def draw(runs: dict[str, list[Outcome]], flood: dict[str, list[Outcome]], path: Path) -> None:
    """First-token latency by arrival, for both experiments."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axes, groups in ((left, runs), (right, flood)):
        for (name, outcomes), colour in zip(groups.items(), ("#b5443c", "#1f7a74"), strict=True):
            served = [o for o in outcomes if o.wait is not None]
            axes.plot(
                [o.arrived for o in served],
                [o.wait for o in served],
                "o",
                ms=4,
                color=colour,
                label=name,
            )
        axes.set(xlabel="arrival, seconds", ylabel="first token, seconds")
        axes.legend(fontsize=8)
    left.axhline(PROMISE, color="grey", ls=":")
    left.set_title("Twice the load that can be carried")
    right.set_title("A quiet tenant beside a flood")
    figure.savefig(path, dpi=120)
    plt.close(figure)
