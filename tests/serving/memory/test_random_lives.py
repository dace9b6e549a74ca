"""Whatever happens in whatever order: blocks, users, prefixes and promises stay in order."""

import contextlib
import random

import pytest
from policy_fakes import World

from gossamer.errors import AdapterFormatError, CapacityError, GossamerError, UnknownModelError

SIZES = {"a": 3, "b": 5, "c": 9, "d": 2, "e": 4, "huge": 39, "torn": 3}
PROMPTS = [tuple(range(n, n + 40)) for n in (0, 0, 100, 200)]


class Life:
    """A world and the operations that may happen to it."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.world = World(
            36,
            SIZES,
            max_running=6,
            max_batch_tokens=24,
            expected_new_tokens=self.rng.choice([1, 8, 64]),
            prefetch=self.rng.choice([0, 4]),
            store={
                "host_bytes": self.rng.choice([0, 2, 100]),
                **self.rng.choice([{}, {"copies": "manual"}]),
            },
            prefixes={"enabled": self.rng.random() < 0.8},
        )
        self.world.loader.errors["torn"] = AdapterFormatError("torn")
        self.added = []
        self.cancelled = set()
        self.unloads = []
        self.refused_at_once = 0

    def add(self):
        length = self.rng.choice([1, 3, 8, 17, 40])
        prompt = self.rng.choice(PROMPTS)[:length]
        name = self.rng.choice([None, None, *SIZES, "a:0.5+b:0.5", "nobody"])
        try:
            sequence = self.world.add(0, self.rng.randint(1, 20), name, prompt=prompt)
        except (UnknownModelError, AdapterFormatError, CapacityError):
            self.refused_at_once += 1
        else:
            self.added.append(sequence)

    def cancel(self):
        scheduler = self.world.scheduler
        alive = [*scheduler.running, *scheduler.waiting]
        if alive:
            victim = self.rng.choice(alive)
            scheduler.remove(victim)
            self.cancelled.add(victim)

    def replace(self):
        self.world.folder.versions[self.rng.choice("abcde")] += 1

    def unload(self):
        done = []
        try:
            self.world.store.unload(self.rng.choice("abcde"), lambda: done.append(True))
        except UnknownModelError:
            return
        self.unloads.append(done)

    def load(self):
        self.world.names.give(self.rng.choice("abcde"), None)

    def pin(self):
        memory = self.world.memory
        if memory.resident:
            with contextlib.suppress(CapacityError):
                memory.pin(self.rng.choice(memory.resident), pinned=self.rng.random() < 0.3)

    def read(self):
        self.world.threads.run(1)

    def copy(self):
        self.world.copies.run(1)

    def look(self):
        assert len(self.world.store.statuses()) >= 0
        assert sum(self.world.store.num_by_state().values()) >= 2

    def operate(self):
        operations = {
            self.add: 10, self.read: 6, self.copy: 6, self.cancel: 1, self.replace: 1,
            self.unload: 1, self.load: 2, self.pin: 1, self.look: 1,
        }  # fmt: skip
        self.rng.choices(list(operations), operations.values())[0]()
        if self.rng.random() < 0.7:
            self.world.step()
        else:
            self.world.audit([])

    def end(self):
        """Let all that is left run to its end; then nothing may be left."""
        for entry in self.world.memory.resident:
            self.world.memory.pin(entry, pinned=False)
        self.world.steps(100_000)
        world = self.world
        refused = {sequence for sequence, _ in world.refused}
        assert all(isinstance(error, GossamerError) for _, error in world.refused)
        assert not world.scheduler.waiting
        assert not world.scheduler.running
        assert set(world.done) | refused | self.cancelled == set(self.added)
        assert len(world.done) + len(refused) + len(self.cancelled) == len(self.added)
        assert all(len(done) == 1 for done in self.unloads), "an unload never ended, or twice"
        assert world.memory.reclaim(36), "memory is lost"
        assert world.prefixes.num_blocks == 0
        assert not world.pool._owners


def live(seed, operations):
    life = Life(seed)
    for _ in range(operations):
        life.operate()
    life.end()
    assert len(life.world.done) > operations / 10
    return life


def test_ten_thousand_random_operations_with_an_audit_after_each():
    lives = [live(seed, 1000) for seed in range(10)]
    worlds = [life.world for life in lives]
    # Every kind of trouble was met.
    assert sum(world.scheduler.num_preemptions for world in worlds) > 0
    assert sum(world.memory.num_evictions for world in worlds) > 100
    assert sum(world.prefixes.num_hit_tokens for world in worlds) > 1000
    assert sum(world.prefixes.num_evictions for world in worlds) > 100
    assert sum(len(life.unloads) for life in lives) > 100
    assert sum(life.refused_at_once for life in lives) > 100


@pytest.mark.slow
def test_many_more_random_operations_with_an_audit_after_each():
    for seed in range(100, 140):
        live(seed, 2000)
