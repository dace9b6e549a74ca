"""The part of a step that is no kernel: planning it, building its batch, choosing its tokens and
taking them in.

python benchmarks/host_step.py --sequences 64

The engine's own loop, scheduler, builder and sampler run; the model is a pause of `--model-ms`, in
which the thread that tells events works as it would beside a device. Each sequence has an adapter
of rank 16 as for Llama-3-8B, in tables as `--lowering` takes them: of a GPU's programs, or of a
processor's threads (224 modules, 7,168 rows). Prints one JSON object: medians in milliseconds,
of steps like the one before and of those in which one sequence has left and another one, with
another adapter, has come. Then choosing tokens alone, from logits as peaked as a model's.
"""

import argparse
import functools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterFacts
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.messages import Request, SamplingParams
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tickets import DoneTicket
from gossamer.serving.core.validation import EngineLimits
from gossamer.serving.device.cpu import CpuDevice, CpuFetch
from gossamer.serving.device.device import Device
from gossamer.serving.engine.loop import EngineLoop
from gossamer.serving.engine.output import ModelInfo
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency
from gossamer.serving.packing.resident import DeviceTables, Resident
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.programs import ProgramLowering
from gossamer.serving.runner.lowering.threads import ThreadLowering
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.runner.sampling.sampler import SamplingState, choose
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import SchedulerLimits
from gossamer.serving.store.host_cache import HostCache
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.store.names import AdapterNames
from gossamer.serving.store.reader import AdapterReader, Loaded
from gossamer.serving.structured.grammars import Grammars

MODULES, RANK, ADAPTER_BLOCKS = 224, 16, 41
CONTEXT, BLOCK_TOKENS, VOCABULARY = 512, 16, 32_000
EVERY = 4
"""Each so many steps one sequence leaves and another one comes."""
PARTS = ("plan", "build", "sample", "take in")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model-ms", type=float, default=6.0)
    parser.add_argument("--lowering", choices=("programs", "threads"), default="programs")
    parser.add_argument("--overlap", action="store_true", help="launch before the last is read")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of the engine's thread alone, which neighbours on the machine change little",
    )
    args = parser.parse_args()
    # Arrays of a step are small: a second thread would only be waited for.
    torch.set_num_threads(1)
    machine = Machine(args)
    figures: dict[str, object] = {
        "steady": machine.measure(args.steps, every=None),
        "one sequence and its adapter changed": machine.measure(args.steps, every=EVERY),
        **{
            f"sample, {name}": round(1e3 * median(sampler(args.sequences, params), 40), 3)
            for name, params in {
                "greedy": SamplingParams(temperature=0),
                "temperature 1": SamplingParams(seed=0),
                "top_p 0.9": SamplingParams(seed=0, temperature=0.7, top_p=0.9),
                "top_k 40": SamplingParams(seed=0, top_k=40),
            }.items()
        },
    }
    machine.close()
    print(json.dumps(figures, indent=1))


class Machine:
    """An engine whose model is a pause and whose adapters are numbers."""

    def __init__(
        self,
        args: argparse.Namespace,
        device: Device | None = None,
        model: Callable[[], object] | None = None,
    ) -> None:
        """device: where arrays go and tokens are chosen, not the CPU; model: instead of a pause."""
        self._model = model or functools.partial(time.sleep, args.model_ms / 1e3)
        self._clock = time.thread_time if args.processor_time else time.perf_counter
        device = device or CpuDevice("reference")
        self._logits = peaked(args.sequences).to(device.torch_device)
        self._seconds: dict[str, float] = defaultdict(float)
        num_blocks = (args.sequences + 1) * (ADAPTER_BLOCKS + 2 * CONTEXT // BLOCK_TOKENS + 160)
        pool = BlockPool(num_blocks, device.launched)
        names = AdapterNames(_Folder())
        loader = _Loader(args.lowering)
        residency = Residency(pool, loader, _nothing)
        prefixes = PrefixCache(pool, BLOCK_TOKENS)
        memory = MemoryManager(pool, prefixes, residency, names.is_current)
        reader = AdapterReader(loader, _AtOnce(), _nothing, num_blocks)
        self._adapters = AdapterManager(names, reader, HostCache(), memory)
        limits = SchedulerLimits(
            block_tokens=BLOCK_TOKENS,
            max_batch_tokens=2048,
            max_running=args.sequences,
            expected_new_tokens=256,
            prefetch=8,
        )
        self.scheduler = Scheduler(memory, self._adapters, limits)
        programs = ProgramLowering(device, block_tokens=BLOCK_TOKENS)
        threads = ThreadLowering(block_tokens=BLOCK_TOKENS, num_workers=2)
        lowering = programs if args.lowering == "programs" else threads
        builder = BatchBuilder(block_tokens=BLOCK_TOKENS, lowering=lowering)
        me: Any = self
        runner = ModelRunner(me, builder, device, overlaps=args.overlap)
        limiter = RateLimiter(10**6, self.scheduler.usage)
        self._loop = EngineLoop(runner, self.scheduler, limiter, Mailbox(), me)
        self._loop.detokenizer.start()
        self._tokenizer = letters()
        self._info = ModelInfo(
            name="none",
            tokenizer=self._tokenizer,
            special_tokens="prompts",
            eos_token_ids=frozenset([VOCABULARY - 1]),
            grammars=Grammars(self._tokenizer, [VOCABULARY - 1], VOCABULARY),
            limits=EngineLimits(
                max_context=10**6, vocab_size=VOCABULARY, block_tokens=BLOCK_TOKENS, block_bytes=1
            ),
        )
        self._running: list[Sequence] = []
        self._count = 0
        for _ in range(args.sequences):
            self._add()
        for owner, method in ((self.scheduler, "plan"), (builder, "build"), (runner, "launch")):
            self._watch(owner, method)
        for _ in range(100):
            self._loop.step()
        assert len(self.scheduler.running) == args.sequences

    def measure(self, steps: int, *, every: int | None) -> dict[str, float]:
        """Milliseconds of each part: of all steps, or of each `every`th, in which one changes."""
        times: dict[str, list[float]] = {part: [] for part in (*PARTS, "all")}
        for step in range(steps * (every or 1)):
            changes = every is not None and step % every == 0
            if changes:
                self._loop.cancel(self._running.pop(0))
                self._add()
            self._seconds.clear()
            begun = self._clock()
            self._loop.step()
            whole = self._clock() - begun
            if changes or every is None:
                spent = self._seconds
                sampling = spent["launch"] - spent["build"] - spent["model"]
                taking_in = whole - spent["plan"] - spent["launch"]
                parts = (spent["plan"], spent["build"], sampling, taking_in)
                for part, value in zip((*PARTS, "all"), (*parts, sum(parts)), strict=True):
                    times[part].append(value)
        return {part: round(1e3 * statistics.median(found), 3) for part, found in times.items()}

    def step_seconds(self, count: int) -> list[float]:
        """Of whole steps like the one before, the model's part included."""
        found = []
        for _ in range(count):
            begun = time.perf_counter()
            self._loop.step()
            found.append(time.perf_counter() - begun)
        return found

    def close(self) -> None:
        """End the thread that tells events."""
        self._loop.detokenizer.end()

    def _watch(self, owner: Any, method: str) -> None:
        """Sum up the seconds of a method."""
        call = getattr(owner, method)

        def timed(*args: Any, **named: Any) -> Any:
            begun = self._clock()
            try:
                return call(*args, **named)
            finally:
                self._seconds[method] += self._clock() - begun

        setattr(owner, method, timed)

    def run(self, batch: Any) -> torch.Tensor:
        """Stand for the model."""
        begun = self._clock()
        self._model()
        logits = self._logits[: len(batch.sampled)].clone()
        self._seconds["model"] += self._clock() - begun
        return logits

    def scored_logits(self, batch: Any) -> Iterator[torch.Tensor]:
        """Nothing: no prompt is to be scored."""
        return iter(())

    def advance(self) -> None:
        """Stand for `AdapterControl`."""
        self._adapters.collect_loads()

    def _add(self) -> None:
        number = self._count = self._count + 1
        request = Request(
            request_id=str(number),
            prompt_token_ids=tuple((number + place) % 1000 for place in range(CONTEXT)),
            adapter=f"a{number}",
            sampling=SamplingParams(temperature=0, ignore_eos=True),
        )
        sequence = Sequence(
            request=request,
            adapter=self._adapters.look_up(f"a{number}"),
            max_new_tokens=10**5,
            token_ids=list(request.prompt_token_ids),
            arrived=time.monotonic(),
        )
        tell = self._loop.detokenizer.tell
        self._loop.requests.add(self._info.generation(sequence, lambda event: None, tell))
        self._loop.enqueue(sequence)
        # It is read before the step that is measured.
        self._adapters.start_load(self._adapters.look_up(f"a{number}"))
        self._adapters.collect_loads()
        self._running.append(sequence)


class _Folder:
    """Has any adapter that is asked for."""

    def names(self) -> list[str]:
        return []

    def look_up(self, name: str) -> AdapterEntry:
        return AdapterEntry(name=name, path=Path(name), signature=((0, 1),))


class _Loader:
    """Makes tables of numbers, without rows."""

    def __init__(self, lowering: str) -> None:
        self._lowering = lowering

    def load(self, entry: AdapterEntry) -> Loaded:
        facts = AdapterFacts(
            digest=entry.name, num_blocks=ADAPTER_BLOCKS, num_bytes=84 * 1024**2, rank=RANK
        )
        return Loaded(rows=entry.name, facts=facts)

    def place(self, rows: str, blocks: list[int], after: int) -> DoneTicket:
        if self._lowering == "programs":
            tables = DeviceTables(
                lora=blocks[0] * 2**21,
                cost=float(RANK * MODULES),
                row_format=RowFormat.BFLOAT16,
            )
            return DoneTicket(Resident(tables=tables))
        return DoneTicket(Resident(lora=table(int(rows[1:]))))


class _AtOnce(Executor):
    """Does what is submitted at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **named))
        return future


def _nothing() -> None:
    """No thread sleeps here that would have to be woken."""


def median(call: Callable[[], object], steps: int) -> float:
    """Seconds of a call."""
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def sampler(count: int, params: SamplingParams) -> Callable[[], object]:
    """A call that chooses `count` tokens."""
    logits = peaked(count)
    states = [SamplingState(params, ()) for _ in range(count)]
    return lambda: choose(logits.clone(), states, CpuFetch).read()


def peaked(count: int) -> torch.Tensor:
    """Logits [count, VOCABULARY] as peaked as a model's."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, VOCABULARY, generator=generator)
    logits[:, :8] += 12
    return logits


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer whose first tokens are letters, and all others nothing."""
    model = BPE(vocab={chr(97 + number): number for number in range(26)}, merges=[])
    made = Tokenizer(model)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def table(number: int) -> LoraTable:
    """The table of an adapter whose rows are nowhere."""
    rows = 2 * RANK * MODULES
    return LoraTable(
        first_row=2 * RANK * np.arange(MODULES, dtype=np.int64),
        rank=np.full(MODULES, RANK, dtype=np.int32),
        scale=np.ones(MODULES, dtype=np.float32),
        offsets=4096 * np.arange(number, number + rows, dtype=np.int64),
        row_scale=np.ones(rows, dtype=np.float32),
        format=RowFormat.BFLOAT16,
    )


if __name__ == "__main__":
    main()
