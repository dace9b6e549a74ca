"""Whatever happens in whatever order, pins and all: everyone has one end, and no block is lost.

A world without tensors is driven as the engine drives the real one: turn after turn while there
is something to do, then asleep until something is posted. Nothing is set right before the end:
what is pinned stays pinned, quotas stay as low as they are, and what cannot be placed still
cannot be.
"""

import random
from collections import Counter

import pytest
from policy_fakes import World

from gossamer.errors import AdapterFormatError, GossamerError
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.tenants import NO_LIMITS, TenantLimits
from gossamer.serving.engine.adapter_control import AdapterControl
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy

PROMPTS = [tuple(range(n, n + 160)) for n in (0, 0, 300, 600)]
VIRTUAL = {"p": 11, "q": 30}
NAMES = ["a", "b", "c", "d", "e", "half", *VIRTUAL, "torn", "unplaceable"]
MIXTURES = ["a:0.5+b:0.5", "c:2+d:1+e:0.1", "half:1+a:1", "unplaceable:1+a:1", "a:1+p:1"]
TENANTS = ["t0", "t1", "t2"]


class MailboxWorld(World):
    """One that rings as the engine's own does when something was read or copied."""

    def __init__(self, *args, **options):
        self.mailbox = Mailbox()
        super().__init__(*args, **options)

    def _ring(self):
        self.mailbox.post()


class Life:
    """A world and what may happen to it."""

    def __init__(self, seed):
        rng = self.rng = random.Random(seed)
        self.now = 0.0
        self.limits = {"t1": TenantLimits(resident_bytes=250)}
        self.world = self._world(rng)
        self.mailbox = self.world.mailbox
        self.control = AdapterControl(
            self.world.store, self.world.names, self.world.memory, self.mailbox, (), "base"
        )
        self.world.held = self.control.loading
        self.busy = False
        self.added, self.cancelled, self.futures = [], [], []
        self.fitted_at_once = 0

    def _world(self, rng):
        self.block_tokens = rng.choice((1, 4, 4))
        num_blocks = rng.randint(16, 60)
        virtual = {name: -(-count // self.block_tokens) for name, count in VIRTUAL.items()}
        sizes = {name: rng.randint(1, max(1, num_blocks // 3)) for name in NAMES}
        sizes.update(virtual, half=num_blocks // 2)
        world = MailboxWorld(
            num_blocks,
            sizes,
            adapter_bytes=100,
            policy={
                "promise": FirstTokenPolicy(slo=rng.choice((None, None, 5.0))),
                "limits_of": lambda tenant: self.limits.get(tenant, NO_LIMITS),
                "clock": lambda: self.now,
            },
            store={
                "host_bytes": rng.choice((0, 200, 10_000)),
                "at_once_bytes": rng.choice((0, 150)),
                "copies": rng.choice((None, "manual")),
                "clock": lambda: self.now,
            },
            prefixes={"enabled": rng.random() < 0.7},
            block_tokens=self.block_tokens,
            max_batch_tokens=rng.choice((1, 7, 32)),
            max_running=rng.choice((1, 4, 16)),
            expected_new_tokens=rng.choice((1, 8, 1000)),
            prefetch=rng.choice((0, 4)),
            adapter_cluster=rng.choice((0, 2)),
            max_context=rng.choice((None, 120)),
        )
        world.loader.virtual = VIRTUAL
        world.loader.errors["torn"] = AdapterFormatError("torn")
        place = world.loader.place

        def sometimes(rows, *places):
            if rows.startswith("unplaceable"):
                raise MemoryError
            return place(rows, *places)

        world.loader.place = sometimes
        return world

    # What the engine does.

    def turn(self, error=None):
        """One turn; whether the next one follows by itself."""
        for message in self.mailbox.take():
            message()
        self.control.advance()
        plan = self.world.step(error)
        self.now += 0.01 * bool(plan)
        self.busy = bool(plan) or self.world.scheduler.wants_step

    def may_turn(self):
        return self.busy or self.mailbox.has_news

    # What happens to it.

    def add(self):
        rng, world = self.rng, self.world
        capacity = world.pool.num_blocks * self.block_tokens
        # Now and then most of what is left beside pins.
        length = rng.choice((1, 3, 9, 30, capacity // 4, capacity // 2))
        prompt = rng.choice(PROMPTS)[: max(1, length)]
        most = min(capacity, world.limits.max_context or capacity) - len(prompt)
        new = rng.choice((None, rng.randint(1, 40)))
        if most < (new or 1):
            return
        name = rng.choice([None, None, *NAMES, *MIXTURES, "nobody"])
        options = {"tenant": rng.choice(TENANTS), "priority": rng.choice((0, 0, 1))}
        try:
            sequence = world.add(0, new, name, prompt=prompt, **options)
        except GossamerError:
            self.fitted_at_once += 1
            return
        sequence.max_new_tokens = min(sequence.max_new_tokens, most)
        self.added.append(sequence)
        self.mailbox.post()

    def cancel(self):
        scheduler = self.world.scheduler
        alive = [*scheduler.running, *scheduler.waiting]
        if alive:
            victim = self.rng.choice(alive)
            scheduler.remove(victim)
            self.cancelled.append(victim)
            self.mailbox.post()

    def replace(self):
        self.world.folder.versions[self.rng.choice(NAMES)] += 1

    def vanish(self):
        """The files of an adapter go, or come back."""
        sizes, name = self.world.folder.sizes, self.rng.choice("abc")
        if name in sizes:
            self.gone = name, sizes.pop(name)
        elif self.gone[0] == name:
            sizes[name] = self.gone[1]

    def pin(self):
        name = self.rng.choice(NAMES)
        self.futures.append(self.control.pin(name, pinned=self.rng.random() < 0.6))

    def load(self):
        name, pin = self.rng.choice(NAMES), self.rng.random() < 0.2
        self.futures.append(self.control.load(name, None, replace=False, pin=pin))

    def unload(self):
        self.futures.append(self.control.unload(self.rng.choice(NAMES)))

    def change_quota(self):
        quota = self.rng.choice((None, 50, 100, 250))
        self.limits[self.rng.choice(TENANTS)] = TenantLimits(resident_bytes=quota)

    def read(self):
        self.world.threads.run(1)

    def copy(self):
        self.world.copies.run(1)

    def fail_a_step(self):
        if self.may_turn():
            self.turn(MemoryError())

    gone = ("", 0)

    def operate(self):
        operations = {
            self.add: 12, self.read: 6, self.copy: 5, self.cancel: 1, self.replace: 1, self.pin: 2,
            self.load: 1, self.unload: 0.4, self.vanish: 0.4, self.change_quota: 0.4,
            self.fail_a_step: 0.2,
        }  # fmt: skip
        self.rng.choices(list(operations), operations.values())[0]()
        for _ in range(self.rng.choice((0, 1, 1, 3))):
            if self.may_turn():
                self.turn()
        self.world.audit([])

    def run_out(self):
        """All that is on its way comes, and nothing else; until the engine sleeps for good."""
        for _ in range(200_000):
            if self.may_turn():
                self.turn()
            elif self.world.threads.jobs:
                self.world.threads.run(1)
            elif self.world.copies.jobs:
                self.world.copies.run(1)
            else:
                return
        raise AssertionError("does not come to an end")

    # What must hold.

    def check_ends(self):
        world = self.world
        assert not list(world.scheduler.waiting), "somebody waits for ever"
        assert not world.scheduler.running
        refused = [sequence for sequence, _ in world.refused]
        assert all(isinstance(error, GossamerError) for _, error in world.refused)
        ends = Counter([*world.done, *refused, *world.failed, *self.cancelled])
        assert ends == Counter(self.added), "not one end for each"
        assert all(future.done() for future in self.futures), "somebody waits for an answer"
        for sequence in world.done:
            total = len(sequence.token_ids)
            assert total <= world.pool.num_blocks * self.block_tokens + 1
            asked = sequence.request.sampling.max_tokens
            assert asked is None or sequence.num_generated == asked
        assert not world.scheduler.counters.waiting

    def check_others_are_served(self):
        """Beside whatever is pinned now."""
        before = len(self.world.done)
        for _ in range(100):
            self.added.append(self.world.add(0, 2, prompt=(7, 8)))
            self.mailbox.post()
            self.run_out()
        assert len(self.world.done) == before + 100

    def check_memory(self):
        world = self.world
        for name in NAMES:
            self.control.pin(name, pinned=False)
        # Of those whose files are gone the engine learns in its next turn.
        self.mailbox.post()
        self.run_out()
        assert world.memory.num_pinned_blocks == 0, "pinned without a name"
        world.memory.reclaim(world.pool.num_blocks)
        assert world.pool.num_free == world.pool.num_blocks


def live(seed, operations):
    life = Life(seed)
    for _ in range(operations):
        life.operate()
    life.run_out()
    life.check_ends()
    # The promise is a matter of time, and of forecasts from what went before.
    life.world.scheduler._deadlines._policy = FirstTokenPolicy()
    life.check_others_are_served()
    pins = life.world.memory.num_pinned_blocks
    life.check_memory()
    return life, pins


def test_random_lives_that_keep_their_pins():
    lives = [live(seed, 220) for seed in range(9)]
    worlds = [life.world for life, _ in lives]
    # Every kind of trouble was met.
    assert sum(pins > 0 for _, pins in lives) >= 5
    assert sum(world.scheduler.num_preemptions for world in worlds) > 10
    assert sum(world.memory.num_evictions for world in worlds) > 50
    assert sum(len(world.failed) for world in worlds) > 2
    assert sum(rows.split("@")[0] in VIRTUAL for w in worlds for rows in w.loader.placed) > 10
    errors = Counter(type(error).__name__ for world in worlds for _, error in world.refused)
    assert {"CapacityError", "AdapterReadError"} <= errors.keys()
    assert sum(len(world.done) for world in worlds) > 900


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 2000, 50))
def test_many_random_lives_that_keep_their_pins(first):
    for seed in range(first, first + 50):
        live(seed, 400)
