"""Thousands of steps with all policies at once: the books are right after each, and all ends."""

import random

import pytest
from policy_fakes import World

from gossamer.serving.core.tenants import NO_LIMITS, TenantLimits
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def random_world(rng, clock):
    num_blocks = rng.randint(20, 60)
    sizes = {f"a{i}": rng.randint(1, num_blocks // 2) for i in range(rng.randint(1, 9))}
    limits = {
        "t0": TenantLimits(share=rng.choice((0.1, 1, 7))),
        "t1": TenantLimits(resident_bytes=rng.choice((99, 100, 250))),
    }
    promise = FirstTokenPolicy(
        slo=rng.choice((None, 0.5, 5.0)), order=rng.choice(("auto", "oldest", "newest"))
    )
    return World(
        num_blocks,
        sizes,
        adapter_bytes=100,
        policy={
            "promise": promise,
            "limits_of": lambda tenant: limits.get(tenant, NO_LIMITS),
            "clock": clock,
        },
        max_batch_tokens=rng.choice((1, 5, 32)),
        max_running=rng.choice((2, 4, 16)),
        expected_new_tokens=rng.choice((1, 8, 1000)),
        adapter_cluster=rng.choice((0, 1, 3)),
        base_bytes=rng.choice((0, 1000)),
    )


def play(world, rng, clock):
    """One turn; the machine takes a hundredth of a second for a step and a thousandth a token."""
    if rng.random() < 0.6:
        world.threads.run(1)
    plan = world.step()
    seconds = 0.01 + 0.001 * sum(part.count for part in plan)
    world.scheduler.record_step(plan, seconds)
    clock.now += seconds
    return plan


@pytest.mark.parametrize("seed", range(10))
def test_random_lives_of_tenants(seed):
    rng, clock = random.Random(seed), Clock()
    world = random_world(rng, clock)
    added, cancelled = set(), set()
    names = [None, *world.folder.sizes]
    for _ in range(500):
        for _ in range(rng.choice((0, 0, 0, 1, 3))):
            added.add(
                world.add(
                    rng.randint(1, 30),
                    rng.randint(1, 20),
                    rng.choice(names),
                    tenant=f"t{rng.randint(0, 3)}",
                    priority=rng.choice((0, 0, -5, 3)),
                )
            )
        alive = [*world.scheduler.running, *world.scheduler.waiting]
        if alive and rng.random() < 0.05:
            victim = rng.choice(alive)
            world.scheduler.remove(victim)
            cancelled.add(victim)
        play(world, rng, clock)
        assert len(world.scheduler.waiting) == len(list(world.scheduler.waiting))
        assert (
            set(world.done) | set(world.scheduler.running) | set(world.scheduler.waiting) <= added
        )
    for _ in range(100_000):
        if not play(world, rng, clock) and not world.scheduler.waiting and not world.threads.jobs:
            break
    refused = {sequence for sequence, _ in world.refused}
    assert not world.scheduler.waiting
    assert not world.scheduler.running
    assert set(world.done) | refused | cancelled == added
    assert len(world.done) + len(refused) + len(cancelled) == len(added)
    assert not world.scheduler.waiting.tenants
    assert not world.scheduler.counters.waiting
    world.memory.reclaim(world.pool.num_blocks)
    assert world.pool.num_free == world.pool.num_blocks
