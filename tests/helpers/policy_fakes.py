"""A scheduler and an adapter store without tensors: files, reading and computing are pretended."""

import math
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

from gossamer.errors import UnknownModelError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterFacts, AdapterState
from gossamer.serving.core.messages import Request, SamplingParams
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tickets import DoneTicket
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import SchedulerLimits
from gossamer.serving.store.host_cache import HostCache
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.store.names import AdapterNames
from gossamer.serving.store.reader import AdapterReader, Loaded, reading_threads


class FakeFolder:
    """Adapters that need `sizes[name]` blocks; `versions[name]` counts up when files change.

    Each has one byte on disk.
    """

    def __init__(self, sizes):
        self.sizes = dict(sizes)
        self.versions = dict.fromkeys(sizes, 0)

    def names(self):
        return sorted(self.sizes)

    def look_up(self, name):
        if name not in self.sizes:
            raise UnknownModelError(name)
        return AdapterEntry(
            name=name, path=Path(name), signature=((0, 1, self.signature_of(name)),)
        )

    def signature_of(self, name):
        """What can be seen of a version without reading it."""
        return self.versions[name]


class FakeLoader:
    """Reads an adapter at once. `errors[name]` is raised instead, if set."""

    def __init__(self, folder, num_bytes=1):
        self._folder = folder
        self._num_bytes = num_bytes
        self.errors = {}
        self.virtual = {}
        """Adapters of which the model computes so many virtual tokens, instead of copying rows."""
        self.placed = []

    def load(self, entry):
        if entry.name in self.errors:
            raise self.errors[entry.name]
        version = self._folder.versions[entry.name]
        facts = AdapterFacts(
            num_blocks=self._folder.sizes[entry.name],
            num_bytes=self._num_bytes,
            rank=1,
            digest=f"{entry.name}@{version}",
            kind="prefix" if entry.name in self.virtual else "low-rank",
            num_virtual_tokens=self.virtual.get(entry.name, 0),
            is_copied=entry.name not in self.virtual,
        )
        return Loaded(rows=f"{entry.name}@{version}", facts=facts)

    def place(self, rows, blocks, after):
        self.placed.append(rows)
        return DoneTicket((rows, tuple(blocks)))


class ManualThreads:
    """Stands for the loading thread: jobs run when the test says so, in order."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, *args):
        future = Future()
        self.jobs.append((future, function, args))
        return future

    def run(self, count=None):
        for _ in range(len(self.jobs) if count is None else min(count, len(self.jobs))):
            future, function, args = self.jobs.pop(0)
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

    def shutdown(self, **options):
        pass


class Stores:
    """Memory and adapters together, without tensors unless the loader has some."""

    def __init__(
        self,
        folder,
        pool,
        loader,
        wake,
        *,
        threads=None,
        copies=None,
        at_once_bytes=0,
        host_bytes=0,
        prefixes=None,
        read_seconds=math.inf,
        clock=time.monotonic,
    ):
        self.names = AdapterNames(folder)
        self.host = HostCache(host_bytes)
        self.memory = MemoryManager(
            pool,
            prefixes or PrefixCache(pool, 1, enabled=False),
            Residency(pool, loader, wake, copies, clock, at_once_bytes),
            self.names.is_current,
            clock,
        )
        self.reader = AdapterReader(
            loader,
            threads or reading_threads(read_seconds),
            wake,
            pool.num_blocks,
            clock,
            early_bytes=host_bytes // 4,
        )
        self.adapters = AdapterManager(self.names, self.reader, self.host, self.memory, clock)

    def close(self):
        self.adapters.close()
        self.memory.close()


def entry_in(state, name="a", **facts):
    """An adapter that has come to `state` by legal moves; with no `facts`, none are known of it."""
    entry = AdapterEntry(name=name, path=Path(), signature=())
    if facts:
        entry.learn(
            AdapterFacts(**{"digest": name, "num_blocks": 1, "num_bytes": 1, "rank": 1, **facts})
        )
    bring_to(entry, state)
    return entry


def bring_to(entry, state):
    """Move a registered adapter on to `state`."""
    ways = [AdapterState.LOADING, AdapterState.HOST, AdapterState.PLACING, AdapterState.RESIDENT]
    moves = [
        entry.start_reading,
        lambda: entry.finish_reading("rows"),
        lambda: entry.start_placing([]),
        lambda: entry.finish_placing("table", 0.0),
    ]
    for move in moves[: ways.index(state) + 1 if state in ways else 0]:
        move()


class World:
    """Pool, store and scheduler, and a model whose steps take no time."""

    def __init__(
        self,
        num_blocks,
        sizes=(),
        *,
        adapter_bytes=1,
        policy=None,
        store=None,
        prefixes=None,
        launched=lambda: 0,
        **limits,
    ):
        self.pool = BlockPool(num_blocks, launched)
        self.folder = FakeFolder(dict(sizes))
        self.loader = FakeLoader(self.folder, adapter_bytes)
        self.rings = 0
        self.threads, self.copies = ManualThreads(), ManualThreads()
        prefixes = {"enabled": False, **(prefixes or {})}
        self.prefixes = PrefixCache(self.pool, limits.get("block_tokens", 4), **prefixes)
        made = Stores(
            self.folder,
            self.pool,
            self.loader,
            self._ring,
            threads=self.threads,
            prefixes=self.prefixes,
            **{k: self.copies if v == "manual" else v for k, v in (store or {}).items()},
        )
        self.names, self.reader, self.host = made.names, made.reader, made.host
        self.memory, self.store = made.memory, made.adapters
        self.limits = SchedulerLimits(
            **{
                "block_tokens": 4,
                "max_batch_tokens": 32,
                "max_running": 8,
                "expected_new_tokens": 16,
                **limits,
            }
        )
        self.scheduler = Scheduler(self.memory, self.store, self.limits, **(policy or {}))
        self.done = []
        self.refused = []
        self.failed = []
        self.launch = lambda plan: None
        """Called for what is to be computed, before the scheduler takes it for done."""
        self.held = tuple
        """Called for the entries that something else than requests counts as in use."""
        self._count = 0

    def _ring(self):
        self.rings += 1

    def pin(self, name):
        """Pin `name`, placing it first, as those who run the server do; its entry."""
        entry = self.store.look_up(name)
        self.store.add_ref(entry)
        self.store.start_load(entry)
        self.threads.run()
        self.store.collect_loads()
        assert self.memory.fits(entry)
        self.store.acquire(entry)
        self.store.release(entry)
        self.memory.pin(entry, pinned=True)
        self.store.drop_ref(entry)
        return entry

    def add(
        self, num_prompt, max_tokens, adapter=None, *, tenant="default", priority=0, prompt=None
    ):
        """Queue a request as the engine does; `prompt` are its tokens, if they matter."""
        prompt = tuple(prompt or (7,) * num_prompt)
        num_prompt = len(prompt)
        self._count += 1
        capacity = self.pool.num_blocks * self.limits.block_tokens
        sequence = Sequence(
            request=Request(
                request_id=str(self._count),
                prompt_token_ids=prompt,
                adapter=adapter,
                sampling=SamplingParams(max_tokens=max_tokens),
                tenant=tenant,
                priority=priority,
            ),
            adapter=self.store.look_up(adapter) if adapter else None,
            max_new_tokens=max_tokens if max_tokens is not None else capacity - num_prompt,
            token_ids=list(prompt),
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self, failure=None):
        """Plan, check the plan, and pretend to compute it, or to fail to. Returns the plan."""
        self.store.collect_loads()
        for sequence, error in self.scheduler.pop_refused():
            if error is not None:
                self.refused.append((sequence, error))
            else:
                self.done.append(sequence)
        plan = self.scheduler.plan()
        self.audit(plan)
        if failure is not None:
            for sequence in self.scheduler.failed(plan, failure):
                self.scheduler.remove(sequence)
                self.failed.append(sequence)
            return plan
        self.launch(plan)
        due = [
            part.sequence
            for part in plan
            if part.count == part.sequence.num_to_compute and part.sequence.prefix_of is None
        ]
        self.scheduler.advance(plan)
        self.scheduler.postprocess(plan)
        for sequence in due:
            self.scheduler.record_token(sequence, 8)
            if sequence.num_left <= 0:
                self.scheduler.remove(sequence)
                self.done.append(sequence)
        return plan

    def steps(self, limit=1000):
        """Step until nothing can be done without news, reading adapters as they are asked for."""
        for _ in range(limit):
            self.threads.run()
            self.copies.run()
            goes_on = self.step() or self.scheduler.wants_step
            if not goes_on and not (self.threads.jobs or self.copies.jobs):
                return
        raise AssertionError(f"not done after {limit} steps")

    def audit(self, plan):
        """What must hold after every plan."""
        limits, scheduler = self.limits, self.scheduler
        self.pool.audit()
        assert sum(part.count for part in plan) <= limits.max_batch_tokens
        assert all(part.count >= 1 for part in plan)
        planned = [part.sequence for part in plan]
        assert len(set(planned)) == len(planned)
        assert len(scheduler.running) <= limits.max_running
        assert not set(scheduler.running) & set(scheduler.waiting)
        fills = [part for part in plan if part.sequence.prefix_of is not None]
        assert len(fills) <= 1
        assert {s for s in planned if s.prefix_of is None} <= set(scheduler.running)
        for part in fills:
            entry = part.sequence.prefix_of
            assert entry in self.memory.placing
            assert part.sequence.blocks == entry.blocks
            assert part.sequence.num_computed + part.count <= entry.num_virtual_tokens
        for part in plan:
            room = len(part.sequence.blocks) * limits.block_tokens
            assert part.sequence.num_computed + part.count <= room
            adapter = part.sequence.adapter
            for entry in adapter.parts if adapter is not None else ():
                assert entry.table is not None
                assert len(entry.blocks) == entry.num_blocks
        for sequence in scheduler.waiting:
            assert not sequence.blocks
            assert sequence.num_computed == 0
        scheduler.audit()
        self.prefixes.audit(scheduler.running)
        owned = self.prefixes.num_private(scheduler.running) + self.prefixes.num_blocks
        owned += sum(len(e.blocks) for e in (*self.memory.resident, *self.memory.placing))
        assert owned + self.pool.num_free == self.pool.num_blocks
        users = _entries(scheduler.running)
        requests = users + _entries(scheduler.waiting) + Counter(self.held())
        for entry in self.memory.resident:
            assert entry.users == users[entry]
            assert entry.requests == requests[entry]


def _entries(sequences):
    adapters = [sequence.adapter for sequence in sequences if sequence.adapter is not None]
    return Counter(entry for adapter in adapters for entry in adapter.parts)


def counts(plan):
    return {part.sequence.request.request_id: part.count for part in plan}
