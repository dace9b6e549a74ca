"""Thousands of adapters on disk, a pool that holds a few: throughput against the same load on five.

python benchmarks/many_adapters.py --model smollm2-135m
python benchmarks/many_adapters.py --model FOLDER --adapters 200 --seconds 10   # a quick look

Closed load: `--clients` requests are always under way, so throughput is what the engine can do. A
thread asks for all clients, as a server's does; the engine's own would ask between two steps only.
Prompts are distinct. Each popularity is measured on the many, and on five for comparison, in turns.
"""

import argparse
import json
import queue
import random
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from common import describe_machine, linear_shapes
from gossamer.basemodel.find import resolve
from gossamer.llm import LLM
from gossamer.serving.core.messages import Event, Finished, Request, SamplingParams, Tokens
from gossamer.serving.loadtest.workload import Workload
from gossamer.serving.simulation.outcomes import percentile

RANKS = (8, 16, 32, 64)
TARGETS = ["q_proj", "v_proj"]
FEW_WEIGHTS = (0.5, 1.0, 1.0, 1.0, 0.5)
"""Traffic of the five, the first and the last of which have the same rank: ranks as with all."""
PROMPT = (16, 64)
ANSWER = (8, 32)


def main() -> None:
    """Write adapters, measure, delete them, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapters", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--share", type=float, default=0.04, help="of the adapters fit the pool")
    parser.add_argument("--host-cache", type=float, default=None, help="GiB")
    parser.add_argument(
        "--ask-all", action="store_true",
        help="first ask each adapter for a token, as a server has that runs for a while",
    )  # fmt: skip
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    model = resolve(args.model)
    root = Path(tempfile.mkdtemp(prefix="gossamer-many-"))
    try:
        size = write_adapters(root, model, args.adapters)
        # The adapters that fit, and as much again as all running requests can need.
        memory = args.share * size + args.clients * (PROMPT[1] + ANSWER[1]) * token_bytes(model)
        result = measure(args, model, root, memory / 2**30)
    finally:
        shutil.rmtree(root)
    result = {"machine": describe_machine(), "disk_gib": size / 2**30, **result}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n")


def write_adapters(root: Path, model: Path, count: int) -> int:
    """`count` bfloat16 adapters of mixed ranks; returns their bytes in all.

    Of each rank one file is drawn and its elements are shifted, which is quick and keeps all files
    different.
    """
    shapes = {n: s for n, s in linear_shapes(model).items() if n.rsplit(".", 1)[-1] in TARGETS}
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for rank in RANKS:
        drawn[rank] = {
            f"base_model.model.{name}.lora_{part}.weight": (
                torch.randn(*size, generator=generator) * 0.02
            ).to(torch.bfloat16)
            for name, (h_out, h_in) in shapes.items()
            for part, size in (("A", (rank, h_in)), ("B", (h_out, rank)))
        }
    total = 0
    for number in range(count):
        rank = RANKS[number % len(RANKS)]
        folder = root / f"adapter-{number:05d}"
        folder.mkdir()
        tensors = {key: tensor.roll(number + 1) for key, tensor in drawn[rank].items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": TARGETS}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        total += sum(tensor.numel() * 2 for tensor in tensors.values())
    return total


def token_bytes(model: Path) -> int:
    """Keys and values of one token."""
    from gossamer.serving.runner.model_shape import base_sizes

    return base_sizes(model).token_bytes


def measure(args: argparse.Namespace, model: Path, root: Path, memory_gib: float) -> dict:
    """Throughput and latency by popularity and number of adapters; memory before and after."""
    started = time.perf_counter()
    llm = LLM(
        str(model), adapters=root, memory_gib=memory_gib, max_running=args.clients,
        host_cache_gib=args.host_cache, prefix_cache=True,
    )  # fmt: skip
    with llm:
        ready = time.perf_counter() - started
        names = [status.name for status in llm.engine.adapters()]
        assert len(names) == args.adapters
        listed = time.perf_counter()
        llm.engine.adapters()
        listed = time.perf_counter() - listed
        traffics = {
            "uniform": (names, [1.0] * len(names)),
            "zipf": (names, zipf(len(names))),
            "few": (names[: len(FEW_WEIGHTS)], list(FEW_WEIGHTS)),
        }
        if args.ask_all:
            ask_all(llm, names)
        Load(llm, *traffics["uniform"], seed=0).run(args.clients, min(10.0, args.seconds))
        before = resident_bytes()
        runs: dict[str, list[dict]] = {name: [] for name in traffics}
        for number in range(args.rounds):
            for name in list(traffics)[:: -1 if number % 2 else 1]:
                load = Load(llm, *traffics[name], seed=number + 1)
                runs[name].append(load.run(args.clients, args.seconds))
                print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        stats = llm.engine.stats()
        after = resident_bytes()
    rates = {name: [run["tokens_per_second"] for run in found] for name, found in runs.items()}
    # Within a round, since a shared machine drifts.
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates[name], rates["few"], strict=True))
        for name in ("uniform", "zipf")
    }
    return {
        "adapters": args.adapters,
        "seconds_to_ready": ready,
        "seconds_to_list": listed,
        "all_asked_before": args.ask_all,
        "pool_gib": memory_gib,
        "most_resident": max(run["most_resident"] for group in runs.values() for run in group),
        "throughput_against_few": ratios,
        "runs": runs,
        "rss_before_mib": before / 2**20,
        "rss_after_mib": after / 2**20,
        "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "host_cache_mib": stats.host_bytes / 2**20,
        "adapter_hits": stats.adapter_hits,
        "loads": stats.adapter_loads,
        "evictions": stats.adapter_evictions,
        "preemptions": stats.preemptions,
    }


def ask_all(llm: LLM, names: list[str]) -> None:
    """A token from each, 64 at a time."""
    sampling = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    for first in range(0, len(names), 64):
        some = names[first : first + 64]
        llm.generate([f"{name}:" for name in some], adapter=some, sampling=sampling)


class Load:
    """Clients that ask again as soon as they are answered."""

    def __init__(self, llm: LLM, names: list[str], weights: list[float], seed: int) -> None:
        self._llm = llm
        self._vocabulary = len(llm.engine.tokenizer)
        self._names, self._weights = names, weights
        self._rng = random.Random(seed)
        self._seed = seed
        self._lock = threading.Lock()
        self._left = threading.Semaphore(0)
        self._end = 0.0
        self._count = 0
        self._tokens = 0
        self._waits: list[float] = []
        self._ends: Counter[str] = Counter()
        self._most_resident = 0
        self._to_ask: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def run(self, clients: int, seconds: float) -> dict:
        """Figures of `seconds` of load; answers that end later are waited for, not counted."""
        start = time.perf_counter()
        self._end = start + seconds
        asker = threading.Thread(target=self._ask_all)
        asker.start()
        for _ in range(clients):
            self._to_ask.put(True)
        for _ in range(clients):
            self._left.acquire()
        self._to_ask.put(False)
        asker.join()
        waits = sorted(self._waits)
        return {
            "tokens_per_second": self._tokens / seconds,
            "requests": len(waits),
            "first_token_p50": percentile(waits, 0.5),
            "first_token_p99": percentile(waits, 0.99),
            "ends": dict(self._ends),
            "most_resident": self._most_resident,
        }

    def _ask_all(self) -> None:
        while self._to_ask.get():
            self._ask()

    def _ask(self) -> None:
        with self._lock:
            self._count += 1
            number = self._count
            (name,) = self._rng.choices(self._names, self._weights)
            prompt = tuple(
                self._rng.randrange(self._vocabulary) for _ in range(self._rng.randint(*PROMPT))
            )
            answer = self._rng.randint(*ANSWER)
        asked = time.perf_counter()
        seen = False

        def on_event(event: Event) -> None:
            nonlocal seen
            now = time.perf_counter()
            if isinstance(event, Tokens):
                if now < self._end:
                    self._tokens += len(event.token_ids)
                    if not seen:
                        self._waits.append(now - asked)
                seen = True
                return
            self._ends[type(event).__name__ if not isinstance(event, Finished) else "finished"] += 1
            if now < self._end:
                resident = self._llm.engine.scheduler.memory.resident
                self._most_resident = max(self._most_resident, len(resident))
                self._to_ask.put(True)
            else:
                self._left.release()

        request = Request(
            request_id=f"{self._seed}-{id(self)}-{number}",
            prompt_token_ids=prompt,
            adapter=name,
            sampling=SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True),
        )
        self._llm.engine.submit(request, on_event)


def zipf(count: int) -> list[float]:
    """Probabilities of adapters whose popularity falls with their number."""
    return Workload(adapters=count, popularity="zipf").probabilities()


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
