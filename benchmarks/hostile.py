"""Hostile adapters and bodies against one live server, beside streams of good neighbours.

    python benchmarks/hostile.py --adapters 10000 --bodies 10000 --stall-ms 100 --output PATH

The model is tiny and made on the spot. It fails if an answer of a neighbour changes, a block is
lost, a request has not exactly one final event, memory grows beyond a bound, or an answer is none
(status 5xx, no OpenAI error); with --stall-ms, which is for a machine that does nothing else, also
if a neighbour waits longer than that between two tokens. One seed always makes the same cases:
`GOSSAMER_FUZZ_SEED=1/123` repeats one in the tests of `tests/fuzz`.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "fuzz"), str(ROOT / "tests" / "helpers")]

from drafts import Draft, read_draft  # noqa: E402
from mutate_adapter import hostile_adapter  # noqa: E402
from mutate_body import CHAT, PLAIN, hostile_body  # noqa: E402
from mutate_json import LARGEST  # noqa: E402
from verdict import problem_of  # noqa: E402

from common import describe_machine  # noqa: E402
from hostile_neighbours import watch  # noqa: E402
from hostile_server import serve  # noqa: E402

BLOCKS = 600
BLOCK_BYTES = 12288
HUGE = 1 << 22
"""Length of texts and lists in one body of a hundred."""
RECOUNT = 1000
"""Cases between two recounts of memory, for which everything stands still."""


def main() -> None:
    """Run, report, and exit with 1 if anything is wrong."""
    args = _arguments()
    # Not above, or the processes that are started would load PEFT too.
    from kinds_case import NAMES, Kinds

    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        kinds = Kinds(Path(scratch))
        report = Run(args, kinds.model, kinds.adapters, NAMES).run()
    text = json.dumps(report, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n")
    sys.exit(1 if report["problems"] else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--at-once", type=int, default=4, help="hostile calls under way")
    parser.add_argument("--neighbours", type=int, default=3, help="streams under way")
    parser.add_argument("--stall-ms", type=float, help="longest gap of a neighbour that is allowed")
    parser.add_argument("--growth-mib", type=float, default=256, help="memory that may be added")
    parser.add_argument("--output", type=Path, help="write the figures there as JSON")
    return parser.parse_args()


class Run:
    """A server, its neighbours, and what is sent to it."""

    def __init__(
        self, args: argparse.Namespace, model: Path, adapters: Path, names: list[str]
    ) -> None:
        self._args = args
        self._names = names
        self._adapters = adapters
        self._goods: list[Draft] = [read_draft(adapters / name) for name in names]
        self._ends: dict[str, Counter[str]] = {"adapters": Counter(), "bodies": Counter()}
        self._problems: list[str] = []
        self._spans: list[tuple[float, float, str]] = []
        self._counts: list[dict[str, Any]] = []
        settings = {
            "model": str(model),
            "adapters": adapters,
            "memory_gib": BLOCKS * BLOCK_BYTES / 1024**3,
            "max_context": 256,
            "threads": 1,
        }
        self._server, self._server_process = _start(serve, settings)
        self._address, self._base = self._server.recv()
        good = [self._base, *names]
        self._watch, self._watch_process = _start(watch, self._address, good, args.neighbours)
        assert self._watch.recv() == "ready"
        # Strangers use machines of their own: making what they send must not take the server's
        # processors away. Not before, or the processes that are started would give way too.
        os.nice(19)

    def run(self) -> dict[str, Any]:
        """Everything; returns the report."""
        started = time.monotonic()
        asyncio.run(self._storm())
        self._watch.send("stop")
        neighbours = self._watch.recv()
        seconds = time.monotonic() - started
        self._server.send("stop")
        if not self._server.poll(60) or self._server.recv() != "stopped":
            self._problems.append("the server did not stop")
        for process in (self._watch_process, self._server_process):
            process.join(10)
            process.kill()
        return self._report(neighbours, seconds)

    async def _storm(self) -> None:
        jobs = ["adapters"] * self._args.adapters + ["bodies"] * self._args.bodies
        random.Random(self._args.seed).shuffle(jobs)
        numbers = {"adapters": iter(range(len(jobs))), "bodies": iter(range(len(jobs)))}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._address, timeout=300, limits=limits) as client:
            for start in range(0, len(jobs), RECOUNT):
                self._order("go")
                seeds = [(job, next(numbers[job])) for job in jobs[start : start + RECOUNT]]
                waiting = iter(seeds)
                await asyncio.gather(
                    *(self._work(client, waiting) for _ in range(self._args.at_once))
                )
                self._order("pause")
                self._recount(start + len(seeds))

    def _order(self, order: str) -> None:
        self._watch.send(order)
        assert self._watch.recv() == order

    def _recount(self, done: int) -> None:
        self._server.send("count")
        count = self._server.recv()
        self._counts.append(count)
        if count["lost"]:
            self._problems.append(f"after {done} cases: {count['lost']}")
        print(f"{done}: {count['rss_mib']:.0f} MiB, {len(self._problems)} problems", flush=True)

    async def _work(self, client: httpx.AsyncClient, waiting: Any) -> None:
        for job, number in waiting:
            seed = f"{self._args.seed}/{number}"
            make = self._try_adapter if job == "adapters" else self._try_body
            try:
                await make(client, seed, number)
            except Exception as error:
                self._problems.append(f"{job} {seed}: {error!r}"[:400])

    async def _try_adapter(self, client: httpx.AsyncClient, seed: str, number: int) -> None:
        case = hostile_adapter(self._goods, seed)
        name = f"hostile-{number}"
        folder = self._adapters / name
        case.write(folder)
        model = f"{name}:0.5+{self._names[0]}:0.5" if number % 7 == 0 else name
        body = {"model": model, "prompt": "Who are you?" * (1 + number % 9), "max_tokens": 4}
        content = json.dumps({**body, "temperature": 0, "stream": number % 2 == 0}).encode()
        await self._send(client, "adapters", str(case), PLAIN, content, {})
        shutil.rmtree(folder)

    async def _try_body(self, client: httpx.AsyncClient, seed: str, number: int) -> None:
        size = HUGE if number % 100 == 99 else LARGEST
        case = hostile_body([self._base, *self._names], seed, size=size)
        assert case.path in (CHAT, PLAIN)
        await self._send(client, "bodies", str(case), case.path, case.content, case.headers)

    async def _send(
        self, client: httpx.AsyncClient, job: str, told: str, path: str, content: bytes, more: dict
    ) -> None:
        headers = {"Content-Type": "application/json", **more}
        encoded = {name: value.encode() for name, value in headers.items()}
        started = time.monotonic()
        reply = await client.post(path, content=content, headers=encoded)
        self._spans.append((started, time.monotonic(), told))
        problem = problem_of(reply.status_code, reply.headers.get("content-type", ""), reply.text)
        if problem is None and str(self._adapters) in reply.text:
            problem = "a place on the server's disk"
        if problem is not None:
            self._problems.append(f"{problem}: {told}: {reply.text[:200]}"[:600])
        end = str(reply.status_code)
        if reply.status_code >= 400:
            end += f" {json.loads(reply.text)['error']['code']}"
        self._ends[job][end] += 1

    def _report(self, neighbours: dict[str, Any], seconds: float) -> dict[str, Any]:
        gaps, last = neighbours["gaps"], self._counts[-1]
        memory = [count["rss_mib"] for count in self._counts]
        growth = max(memory) - memory[0]
        peak = last["peak_mib"] - memory[0]
        worst = [self._blame(*each) for each in neighbours["worst"]]
        problems = [*self._problems, *(f"a neighbour: {each}" for each in neighbours["wrong"])]
        events = last["events"]
        if last["without_an_end"] or events.get("ended twice") or (
            events.get("accepted") != events.get("ended")
        ):  # fmt: skip
            problems.append(f"final events: {events}, {last['without_an_end']} without")
        if max(growth, peak) > self._args.growth_mib:
            problems.append(f"memory grew by {growth:.0f} MiB, {peak:.0f} at its peak")
        if self._args.stall_ms is not None and worst and worst[0]["ms"] > self._args.stall_ms:
            problems.append(f"a neighbour waited {worst[0]['ms']} ms for a token")
        return {
            "command": " ".join(["python", *sys.argv]),
            "machine": describe_machine(),
            "seconds": round(seconds),
            "ends": {job: dict(sorted(ends.items())) for job, ends in self._ends.items()},
            "neighbours": {
                "answers": neighbours["answers"],
                "other_answers": len(neighbours["wrong"]),
                "gap_ms": _spread(gaps),
                "first_token_ms": _spread(neighbours["firsts"]),
                "gaps_over_100_ms": sum(gap > 0.1 for gap in gaps),
                "own_lateness_ms": round(1000 * neighbours["own_lateness"], 1),
            },
            "worst_gaps": worst,
            "slowest_calls": [
                {"ms": round(1000 * (end - start)), "call": told[:200]}
                for start, end, told in sorted(self._spans, key=lambda s: s[0] - s[1])[:8]
            ],
            "final_events": events,
            "recounts": len(self._counts),
            "rss_mib": memory,
            "peak_mib": last["peak_mib"],
            "adapter_loads": last["adapter_loads"],
            "adapter_evictions": last["adapter_evictions"],
            "threads": last["threads"],
            "adapters_by_state": last["adapters_by_state"],
            "problems": problems,
        }

    def _blame(self, gap: float, end: float, name: str) -> dict[str, Any]:
        """What was under way while a neighbour waited."""
        during = [told[:160] for start, until, told in self._spans if start < end < until + gap]
        return {"ms": round(1000 * gap, 1), "neighbour": name, "during": during[:8]}


def _spread(values: Any) -> dict[str, float]:
    ordered = sorted(values)
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    places = {
        name: min(int(share * len(ordered)), len(ordered) - 1) for name, share in shares.items()
    }
    return {name: round(1000 * ordered[place], 2) for name, place in places.items() if ordered}


def _start(target: Any, *args: Any) -> tuple[Any, Any]:
    """A process that runs `target` with a connection as its last argument; and the other end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    return ours, process


if __name__ == "__main__":
    main()
