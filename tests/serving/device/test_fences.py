"""Copies beside steps, in whatever order a GPU does both: nobody reads or overwrites too early.

Scheduler, memory, residency and the GPU's copier are the real ones; the streams are pretended. The
host runs ahead of the device as far as it likes. Each piece of work on a stream checks, when it is
done, that the blocks hold what they held when it was launched, or were to hold by then.
"""

import contextlib
import random
import weakref
from dataclasses import replace
from functools import partial

import pytest
from fake_cuda import FakeCuda
from policy_fakes import World

from gossamer.errors import GossamerError, UnknownModelError
from gossamer.serving.device.cuda_copies import CudaCopier, CudaTicket, StepEvents
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.residency import Residency

SIZES = {"a": 3, "b": 5, "c": 9, "d": 2, "e": 4, "p": 3, "bad": 4}
BLOCK_TOKENS = 4
PROMPTS = [tuple(range(n, n + 40)) for n in (0, 0, 100, 200)]


class Violation(AssertionError):
    """Something was read or written too early."""


class HostMemory:
    """The rows of an adapter in host memory; copies read them without holding on to them."""

    def __init__(self, name, cuda):
        self.name = name
        self._cuda = cuda

    def place(self, pool, blocks):
        if self.name.startswith("p@"):
            return ("computed", self.name)
        rows = weakref.ref(self)
        for number, block in enumerate(blocks):
            if self.name.startswith("bad@") and number == 2:
                raise MemoryError
            self._cuda.current.push(partial(copy_block, pool, block, rows))
        return ("copied", self.name)


def copy_block(pool, block, rows):
    """As a copy engine does: it does not keep the rows alive."""
    if rows() is None:
        raise Violation(f"the rows for block {block} were dropped before they were copied")
    pool[block] = rows().name


class Machine:
    """A world whose steps and copies run on pretended streams."""

    def __init__(self, seed, *, beside=True):
        self.rng = random.Random(seed)
        self.cuda = FakeCuda(seed)
        self.blocks = [None] * 36
        self.steps = StepEvents(self.cuda)
        self.copier = CudaCopier(self.cuda, self.blocks, self.steps)
        self.num_checked = 0
        self.world = World(
            36,
            SIZES,
            max_running=6,
            max_batch_tokens=24,
            block_tokens=BLOCK_TOKENS,
            expected_new_tokens=self.rng.choice([1, 8, 64]),
            prefetch=self.rng.choice([0, 4]),
            store={
                "host_bytes": self.rng.choice([0, 2, 100]),
                **({"copies": "manual"} if beside else {}),
            },
            prefixes={"enabled": self.rng.random() < 0.8},
            launched=lambda: self.steps.launched,
        )
        self.world.loader.virtual = {"p": 3}
        self.world.loader.place = self.copier.place
        load = self.world.loader.load

        def load_rows(entry):
            loaded = load(entry)
            return replace(loaded, rows=HostMemory(loaded.rows, self.cuda))

        self.world.loader.load = load_rows
        self.world.launch = self.launch

    def launch(self, plan):
        """Put what a step reads and writes on the stream of steps."""
        for part in plan:
            self.cuda.compute.push(self.work(part.sequence, part.count))
        self.steps.record()

    def work(self, sequence, count):
        bound, begin = list(sequence.blocks), sequence.num_computed
        end = begin + count
        reads, writes = {}, {}
        if sequence.prefix_of is not None:
            is_whole = end == sequence.prefix_of.num_virtual_tokens
            name = sequence.prefix_of.rows.name if is_whole else "a part of p"
            writes = dict.fromkeys(bound, name)
        else:
            for adapter in sequence.adapter.parts if sequence.adapter is not None else ():
                reads |= dict.fromkeys(adapter.blocks, adapter.table[1])
            uses = sequence.adapter.uses if sequence.adapter is not None else ()
            # Keys and values of a prompt depend on the adapter's weights as well.
            tokens = (tuple((e.digest, weight) for e, weight in uses), *sequence.token_ids)
            for number, block in enumerate(bound[: -(-end // BLOCK_TOKENS)]):
                first, last = number * BLOCK_TOKENS, (number + 1) * BLOCK_TOKENS
                if first < begin:
                    reads[block] = tokens[: min(begin, last) + 1]
                if last > begin:
                    writes[block] = tokens[: min(end, last) + 1]

        def run():
            for block, content in reads.items():
                self.num_checked += 1
                if self.blocks[block] != content:
                    raise Violation(f"block {block}: {self.blocks[block]} instead of {content}")
            for block, content in writes.items():
                self.blocks[block] = content

        return run

    # What may happen.

    def add(self):
        prompt = self.rng.choice(PROMPTS)[: self.rng.choice([1, 3, 8, 17, 40])]
        name = self.rng.choice([None, *SIZES, "a:0.5+b:0.5"])
        with contextlib.suppress(GossamerError):
            self.world.add(0, self.rng.randint(1, 20), name, prompt=prompt)

    def cancel(self):
        scheduler = self.world.scheduler
        if alive := [*scheduler.running, *scheduler.waiting]:
            scheduler.remove(self.rng.choice(alive))

    def unload(self):
        with contextlib.suppress(UnknownModelError):
            self.world.store.unload(self.rng.choice("abcde"), lambda: None)

    def give(self):
        self.world.names.give(self.rng.choice("abcde"), None)

    def replace(self):
        self.world.folder.versions[self.rng.choice("abcde")] += 1

    def reclaim(self):
        self.world.memory.reclaim(self.rng.randint(1, 36))

    def read(self):
        self.world.threads.run(1)

    def copy(self):
        self.world.copies.run(1)

    def advance(self):
        for _ in range(self.rng.choice([1, 3, 30])):
            self.cuda.advance()

    def operate(self):
        ways = {
            self.add: 8, self.read: 6, self.copy: 6, self.advance: 8, self.cancel: 1,
            self.replace: 1, self.unload: 1, self.give: 1, self.reclaim: 1,
        }  # fmt: skip
        self.rng.choices(list(ways), ways.values())[0]()
        if self.rng.random() < 0.7:
            self.world.step()
            self.world.store.drop_unneeded_rows()

    def live(self, operations):
        for _ in range(operations):
            self.operate()
        self.world.steps(100_000)
        self.cuda.run_until()
        assert self.world.memory.reclaim(36), "memory is lost"
        return self


def live_all(seeds, operations):
    """Some lives with copies on a thread beside the steps, and some with copies at once."""
    return [Machine(seed, beside=seed % 3 > 0).live(operations) for seed in range(seeds)]


def test_thousands_of_random_orders():
    machines = live_all(9, 600)
    # All that may go wrong was met.
    assert sum(machine.num_checked for machine in machines) > 10_000
    assert sum(machine.world.memory.num_loads for machine in machines) > 200
    assert sum(machine.world.memory.num_evictions for machine in machines) > 100
    assert sum(machine.world.scheduler.num_preemptions for machine in machines) > 0
    refused = [error for machine in machines for _, error in machine.world.refused]
    assert any("no memory is left" in str(error) for error in refused)


@pytest.mark.slow
def test_many_more_random_orders():
    live_all(60, 2000)


def no_fence(monkeypatch):
    monkeypatch.setattr(StepEvents, "of", lambda self, number: None)


def fence_too_old(monkeypatch):
    of = StepEvents.of
    monkeypatch.setattr(StepEvents, "of", lambda self, number: of(self, max(0, number - 1)))


def oldest_block_counts(monkeypatch):
    monkeypatch.setattr(
        BlockPool, "last_step", lambda self, blocks: min(self._last_step[b] for b in blocks)
    )


def tickets_are_not_polled(monkeypatch):
    monkeypatch.setattr(CudaTicket, "done", property(lambda self: True))


def steps_do_not_wait(monkeypatch):
    monkeypatch.setattr(CudaTicket, "wait", lambda self: None)


def rows_are_not_kept(monkeypatch):
    make = CudaTicket.__init__

    def forget(self, cuda, stream, rows, found):
        make(self, cuda, stream, object(), found)

    monkeypatch.setattr(CudaTicket, "__init__", forget)


def a_failed_copy_goes_on(monkeypatch):
    monkeypatch.setattr("fake_cuda.FakeStream.synchronize", lambda self: None)


def blocks_come_back_before_the_copy(monkeypatch):
    collect = Residency.collect

    def early(self):
        for entry, future in list(self._placing.items()):
            if future.done() and not future.exception() and not entry.requests:
                del self._placing[entry]
                self._pool.give(entry.leave_blocks(), entry)
        return collect(self)

    monkeypatch.setattr(Residency, "collect", early)


@pytest.mark.parametrize(
    "mutation",
    [
        no_fence, fence_too_old, oldest_block_counts, tickets_are_not_polled, steps_do_not_wait,
        rows_are_not_kept, a_failed_copy_goes_on, blocks_come_back_before_the_copy,
    ],
)  # fmt: skip
def test_each_rule_is_needed(monkeypatch, mutation):
    mutation(monkeypatch)
    with pytest.raises(Violation):
        live_all(30, 600)
