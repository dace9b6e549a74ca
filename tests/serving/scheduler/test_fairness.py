"""Tenants: equal service by share, no saved credit, nothing left idle, a bound on what differs."""

import random
from collections import Counter

import pytest
from policy_fakes import World

from gossamer.serving.core.tenants import TenantLimits
from gossamer.serving.scheduler.fairness import VirtualCounters, service_gap_bound


def keep_waiting(world, tenant, count, prompt, new, adapter=None):
    """Top the tenant's queue up to `count` requests."""
    queue = world.scheduler.waiting.tenants.get(tenant, ())
    for _ in range(count - len(queue)):
        world.add(prompt, new, adapter, tenant=tenant)


def service(world):
    """Prompt tokens + 2 * new tokens by tenant, of all that was started."""
    total = Counter()
    for sequence in [*world.done, *world.scheduler.running]:
        total[sequence.tenant] += sequence.num_prompt + 2 * sequence.num_generated
    return total


def test_a_flood_delays_another_tenant_by_no_more_than_a_place():
    world = World(400, max_running=8, expected_new_tokens=16)
    for _ in range(500):
        world.add(4, 10, tenant="flood")
    world.step()
    for _ in range(20):
        quiet = world.add(4, 4, tenant="quiet")
        steps = 0
        while quiet not in world.done:
            world.step()
            steps += 1
        # The next of eight places is free within ten steps; then one prompt and three decodes.
        assert steps <= 10 + 4


def test_two_backlogged_tenants_drift_apart_by_no_more_than_the_bound():
    rng = random.Random(3)
    world = World(60, max_running=6, max_batch_tokens=24, expected_new_tokens=8)
    longest, most = 24, 20
    bound = service_gap_bound(longest_prompt=longest, output_tokens=6 * most)
    gaps = []
    for _ in range(3000):
        # One sends many small requests, the other few large ones; both always wait.
        keep_waiting(world, "small", 6, rng.randint(1, 4), rng.randint(1, 6))
        keep_waiting(world, "large", 6, rng.randint(12, longest), rng.randint(8, most))
        world.step()
        now = service(world)
        gaps.append(now["small"] - now["large"])
    assert max(gaps) - min(gaps) <= bound
    assert min(service(world).values()) > 20 * bound
    # Order of arrival alone would not do: each admission of "large" is many times one of "small".
    started = Counter(s.tenant for s in world.done)
    assert started["small"] > 4 * started["large"]


def test_service_follows_the_shares():
    shares = {"one": TenantLimits(share=1), "three": TenantLimits(share=3)}
    world = World(100, max_running=6, policy={"limits_of": shares.__getitem__})
    for _ in range(3000):
        keep_waiting(world, "one", 5, 6, 6)
        keep_waiting(world, "three", 5, 6, 6)
        world.step()
    got = service(world)
    assert got["three"] / got["one"] == pytest.approx(3, rel=0.05)


def test_who_was_idle_has_saved_nothing():
    world = World(100, max_running=4)
    for _ in range(500):
        keep_waiting(world, "busy", 5, 6, 6)
        world.step()
    before = service(world)
    for _ in range(500):
        keep_waiting(world, "busy", 5, 6, 6)
        keep_waiting(world, "back", 5, 6, 6)
        world.step()
    now = service(world)
    assert now["back"] / (now["busy"] - before["busy"]) == pytest.approx(1, rel=0.1)


def test_nothing_is_left_idle_for_fairness_sake():
    alone, shared = World(100, max_running=4), World(100, max_running=4)
    for _ in range(60):
        alone.add(6, 6)
        shared.add(6, 6, tenant="greedy")
    shared.add(6, 6, tenant="modest")
    alone.add(6, 6)
    steps = []
    for world in (alone, shared):
        steps.append(0)
        while world.scheduler.waiting or world.scheduler.running:
            world.step()
            steps[-1] += 1
    assert steps[0] == steps[1]


def test_a_tenant_whose_requests_do_not_fit_leaves_the_memory_to_others():
    world = World(40, max_running=8, expected_new_tokens=64)
    world.add(4, 60, tenant="old")
    world.step()
    for _ in range(20):
        world.add(140, 8, tenant="huge")
    for _ in range(5):
        world.add(4, 4, tenant="small")
    for _ in range(30):
        world.step()
    assert sum(s.tenant == "small" for s in world.done) == 5


@pytest.mark.parametrize("base_bytes", [0, 1000])
def test_the_work_of_adapters_is_charged(base_bytes):
    """Half as heavy as the base: its tokens count one and a half."""
    world = World(
        300,
        {"a": 5},
        adapter_bytes=500,
        max_running=4,
        base_bytes=base_bytes,
        expected_new_tokens=8,
    )
    for _ in range(1500):
        keep_waiting(world, "plain", 5, 6, 6)
        keep_waiting(world, "adapted", 5, 6, 6, "a")
        world.threads.run()
        world.step()
    got = service(world)
    expected = 1.5 if base_bytes else 1.0
    assert got["plain"] / got["adapted"] == pytest.approx(expected, rel=0.05)


def test_loading_is_charged_to_whoever_makes_it_necessary():
    world = World(100, {"a": 5}, adapter_bytes=25_000_000)
    world.add(4, 1, "a", tenant="first")
    world.steps()
    world.add(4, 1, "a", tenant="second")
    world.steps()
    counters = world.scheduler.counters
    # 25 MB are ten prompt tokens; then 4 of the prompt and 2 for the new one. Idle tenants start
    # level, so the second began where the first was.
    assert counters.of("first") == pytest.approx(10 + 4 + 2)
    assert counters.of("second") - counters.of("first") == pytest.approx(4 + 2)


def test_what_is_computed_again_is_not_charged_again():
    world = World(10, expected_new_tokens=1)
    for _ in range(3):
        world.add(4, 30)
    world.steps()
    assert world.scheduler.num_preemptions > 0
    assert world.scheduler.counters.of("default") == 3 * (4 + 2 * 30)


def test_every_tenant_is_served_within_a_bound_under_an_adversarial_flood():
    """Many tenants send without end whatever is worst; a newcomer's wait stays bounded."""
    rng = random.Random(5)
    world = World(120, max_running=6, max_batch_tokens=32, expected_new_tokens=12)
    flooders = [f"flood{i}" for i in range(5)]
    longest, most = 20, 12
    waits = []
    quiet = None
    for step in range(4000):
        for name in flooders:
            keep_waiting(world, name, 8, rng.choice((1, longest)), rng.choice((1, most)))
        if quiet is None and rng.random() < 0.05:
            quiet, since = world.add(8, 4, tenant="quiet"), step
        world.step()
        if quiet is not None and quiet.admitted is not None:
            waits.append(step - since)
            quiet = None
    # Level with the least served on arrival, "quiet" waits at most until each of the others has
    # been charged the largest amount once; the six places give at least 2 tokens' charge a step.
    largest = service_gap_bound(longest_prompt=longest, output_tokens=6 * most) / 2
    assert len(waits) > 100
    assert max(waits) <= len(flooders) * largest / 2


def test_a_counter_never_falls():
    counters = VirtualCounters()
    rng = random.Random(1)
    waiting = Counter()
    seen = {}
    for _ in range(5000):
        name = rng.choice("abcd")
        if waiting[name] and rng.random() < 0.6:
            counters.depart(name)
            waiting[name] -= 1
            counters.charge(name, rng.random())
        else:
            counters.arrive(name)
            waiting[name] += 1
        assert counters.of(name) >= seen.get(name, 0)
        seen[name] = counters.of(name)
