"""The order inside a tenant: priority, age, adapters that are in the batch; nobody starves."""

import pytest
from policy_fakes import World

from gossamer.serving.scheduler.deadlines import FirstTokenPolicy
from gossamer.serving.scheduler.queue import OLDEST_EVERY, start_bound


def started(world):
    """Numbers of the requests in the order in which they were started."""
    found = []
    for _ in range(10_000):
        known = set(found)
        plan = world.step()
        world.threads.run()
        found += [p.sequence for p in plan if p.sequence not in known and p.sequence not in found]
        if not plan and not world.scheduler.waiting:
            break
    return [int(sequence.request.request_id) for sequence in found]


def test_a_lower_number_goes_first_and_equals_by_age():
    world = World(100, max_running=1)
    for priority in (0, 5, -1, 0, -1):
        world.add(4, 1, priority=priority)
    assert started(world) == [3, 5, 1, 4, 2]


def test_priority_takes_nothing_from_another_tenant():
    world = World(100, max_running=1)
    for _ in range(6):
        world.add(4, 1, tenant="pushy", priority=-1000)
    for _ in range(6):
        world.add(4, 1, tenant="patient")
    world.steps()
    order = [s.tenant for s in world.done]
    assert order == ["pushy", "patient"] * 6


def test_a_low_priority_is_started_within_the_bound_under_a_flood_of_a_high_one():
    world = World(400, max_running=4)
    old = [world.add(4, 2, priority=9) for _ in range(3)]
    ends = {}
    for _ in range(400):
        while len(world.scheduler.waiting) < 20:
            world.add(4, 2, priority=0)
        world.step()
        for age, sequence in enumerate(old):
            if sequence.admitted is not None and age not in ends:
                ends[age] = len(world.done) + len(world.scheduler.running)
    assert sorted(ends) == [0, 1, 2]
    # Those that had run before, or ran beside them in the same step, count too.
    assert all(ends[age] <= start_bound(age) + world.limits.max_running for age in ends)
    assert ends[2] >= 2 * OLDEST_EVERY


def test_adapters_in_the_batch_go_first_once_there_are_enough_of_them():
    sizes = dict.fromkeys("abcd", 2)
    orders = {}
    for cluster in (0, 2):
        world = World(200, sizes, max_running=3, expected_new_tokens=4, adapter_cluster=cluster)
        # All are read, so that only the order of waiting decides.
        for name in "abcd":
            world.add(1, 1, name)
        world.steps()
        count = len(world.done)
        for name in "abcdabcd":
            world.add(4, 12, name)
        orders[cluster] = [number - count for number in started(world)]
    assert orders[0] == [1, 2, 3, 4, 5, 6, 7, 8]
    # a and b make the cluster; the third place goes to the next a, and so on.
    assert orders[2][:3] == [1, 2, 5]
    assert sorted(orders[2]) == list(range(1, 9))


def test_a_cold_adapter_is_not_starved_by_the_cluster():
    world = World(200, {"hot": 2, "cold": 2}, max_running=2, adapter_cluster=1)
    world.add(4, 4, "hot")
    world.threads.run()
    world.step()
    world.threads.run()
    cold = world.add(4, 4, "cold")
    for _ in range(300):
        while len(world.scheduler.waiting) < 10:
            world.add(4, 4, "hot")
        world.threads.run()
        world.step()
        if cold in world.done:
            break
    else:
        raise AssertionError("starved")
    assert len(world.done) <= start_bound(0) + 4


@pytest.mark.parametrize(("order", "expected"), [("oldest", [1, 2, 3]), ("newest", [3, 2, 1])])
def test_order_by_age_can_be_turned_round(order, expected):
    promise = FirstTokenPolicy(slo=1000.0, order=order)
    world = World(100, max_running=1, policy={"promise": promise})
    for _ in range(3):
        world.add(4, 1)
    assert started(world) == expected


def test_without_a_promise_the_oldest_goes_first_even_in_a_flood():
    world = World(100, max_running=1)
    for _ in range(50):
        world.add(4, 1)
    assert started(world) == list(range(1, 51))
