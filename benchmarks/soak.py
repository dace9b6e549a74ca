"""Everything at once for as long as you like: requests, cancels, loads, unloads, new weights, pins.

python benchmarks/soak.py --model smollm2-135m --minutes 20

Now and then all is let go and the engine recounts its memory; a lost block, a user without a
request or a request without an end is an error. Prints a line per round and, at the end, one JSON
object.
"""

import argparse
import json
import random
import resource
import shutil
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

from common import random_adapters
from gossamer.basemodel.find import resolve
from gossamer.errors import GossamerError
from gossamer.llm import LLM
from gossamer.serving.core.messages import Event, Failed, Finished, Request, SamplingParams, Tokens

ROUND = 20.0
"""Seconds of trouble between two recounts."""
PENDING = 24
"""Requests under way at most."""


def main() -> None:
    """Soak until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--memory", type=float, default=0.3, help="GiB")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = resolve(args.model)
    with tempfile.TemporaryDirectory(prefix="gossamer-soak-") as folder:
        root = Path(folder)
        for rank in (4, 8, 16, 32):
            random_adapters(root, model, 3, rank, prefix=f"r{rank}")
        shutil.copytree(root / "r4-0", root / "torn")
        (root / "torn" / "adapter_model.safetensors").write_bytes(b"no weights")
        with LLM(str(model), adapters=root, memory_gib=args.memory, max_running=16) as llm:
            print(json.dumps(Soak(llm, root, args.seed).run(60 * args.minutes), indent=1))


class Soak:
    """One engine and what is done to it."""

    def __init__(self, llm: LLM, root: Path, seed: int) -> None:
        self._llm, self._root = llm, root
        self._rng = random.Random(seed)
        self._names = [status.name for status in llm.engine.adapters()]
        self._ends: Counter[str] = Counter()
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()
        self._futures: list[Future] = []
        self._num = 0

    def run(self, seconds: float) -> dict:
        """Rounds of trouble and recounts."""
        end = time.monotonic() + seconds
        sizes = []
        operations = {
            self._ask: 30, self._cancel: 3, self._unload: 1, self._load: 2, self._pin: 1,
            self._replace: 1,
        }  # fmt: skip
        while time.monotonic() < end:
            stop = min(end, time.monotonic() + ROUND)
            while time.monotonic() < stop:
                self._rng.choices(list(operations), operations.values())[0]()
            self._settle()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * resource.getpagesize() / 2**20)
            print(f"{len(sizes)}: {sizes[-1]:.0f} MiB, {dict(self._ends)}", flush=True)
        stats = self._llm.engine.stats()
        return {
            "operations": self._num,
            "ends": dict(self._ends),
            "rss_mib": sizes,
            "loads": stats.adapter_loads,
            "evictions": stats.adapter_evictions,
            "preemptions": stats.preemptions,
            "prefix_hit_tokens": stats.prefix_hit_tokens,
            "prefix_queried_tokens": stats.prefix_queried_tokens,
        }

    def _ask(self) -> None:
        while len(self._open) >= PENDING:
            time.sleep(0.005)
        self._num += 1
        name = f"soak-{self._num}"

        def on_event(event: Event) -> None:
            if isinstance(event, Tokens):
                return
            with self._lock:
                del self._open[name]
                reason = event.finish_reason if isinstance(event, Finished) else "failed"
                self._ends[reason] += 1
                if isinstance(event, Failed):
                    self._ends[type(event.error).__name__] += 1

        start = self._rng.choice([1000, 2000, 3000])
        request = Request(
            request_id=name,
            prompt_token_ids=tuple(range(start, start + self._rng.randint(1, 90))),
            adapter=self._rng.choice([None, *self._names, "r4-1:0.5+r8-1:0.5"]),
            sampling=SamplingParams(max_tokens=self._rng.randint(1, 40), ignore_eos=True),
        )
        with self._lock:
            self._open[name] = self._num
        try:
            self._llm.engine.submit(request, on_event)
        except GossamerError as error:
            with self._lock:
                del self._open[name]
                self._ends[f"refused: {type(error).__name__}"] += 1

    def _cancel(self) -> None:
        with self._lock:
            names = list(self._open)
        if names:
            self._llm.engine.cancel(self._rng.choice(names))

    def _unload(self) -> None:
        self._futures.append(self._llm.engine.unload_adapter(self._rng.choice(self._names)))

    def _load(self) -> None:
        pin = self._rng.random() < 0.2
        self._futures.append(self._llm.engine.load_adapter(self._rng.choice(self._names), pin=pin))

    def _pin(self) -> None:
        name = self._rng.choice(self._names)
        self._futures.append(self._llm.engine.pin_adapter(name, pinned=False))

    def _replace(self) -> None:
        """Other weights under an old name, as a careful user would: by renaming folders."""
        name, other = self._rng.sample([name for name in self._names if name != "torn"], 2)
        fresh = self._root.parent / f"{self._root.name}-fresh"
        shutil.copytree(self._root / other, fresh)
        shutil.rmtree(self._root / name)
        fresh.rename(self._root / name)

    def _settle(self) -> None:
        deadline = time.monotonic() + 300
        while self._open:
            assert time.monotonic() < deadline, f"without an end: {list(self._open)[:5]}"
            time.sleep(0.01)
        for future in self._futures:
            error = future.exception(timeout=300)
            assert error is None or isinstance(error, GossamerError), error
        self._futures.clear()
        self._llm.engine.audit()
        assert self._llm.engine.stats().blocks_kv == 0


if __name__ == "__main__":
    main()
