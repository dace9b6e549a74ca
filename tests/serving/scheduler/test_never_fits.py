"""Who can run no more is told so; who can, runs, and nobody waits behind him for ever."""

import pytest
from policy_fakes import World

from gossamer.errors import CapacityError
from gossamer.serving.core.tenants import NO_LIMITS, TenantLimits
from gossamer.serving.scheduler.admission import MAX_SKIPS


def flood(world, count=3 * MAX_SKIPS):
    """Small requests of the base model, one after the other; whether all were served."""
    later = []
    for _ in range(count):
        later.append(world.add(4, 2))
        world.steps()
    return set(later) <= set(world.done)


@pytest.mark.parametrize("name", ["a", "a:0.5+b:0.5"])
def test_a_pinned_adapter_that_nobody_uses_is_in_the_pool_already(name):
    world = World(20, {"a": 8, "b": 2})
    world.pin("a")
    # 12 blocks are free, of which the prompt takes 6 and the answer 1.
    sequence = world.add(24, 4, name)
    world.steps()
    assert world.done == [sequence]
    assert flood(world)


def put_back(world, max_tokens):
    """A request with two thirds of the pool's tokens, which an older one has displaced."""
    older, younger = world.add(20, 20), world.add(40, max_tokens)
    for _ in range(60):
        world.step()
        if younger in world.scheduler.waiting:
            return older, younger
    raise AssertionError("was not put back")


def test_who_has_more_than_fits_beside_new_pins_ends_with_what_he_has():
    world = World(20, {"a": 8}, expected_new_tokens=1)
    older, open_end = put_back(world, None)
    said = open_end.num_generated
    world.pin("a")
    assert len(open_end.token_ids) > 12 * 4
    world.steps()
    assert set(world.done) == {older, open_end}
    assert open_end.num_generated == said
    assert not world.refused
    assert flood(world)


def test_who_asked_for_more_than_fits_beside_new_pins_is_told_so():
    world = World(20, {"a": 8}, expected_new_tokens=1)
    older, wanting = put_back(world, 40)
    world.pin("a")
    world.steps()
    assert world.done == [older]
    assert [sequence for sequence, _ in world.refused] == [wanting]
    assert "beside pinned adapters the memory holds 48 tokens" in str(world.refused[0][1])
    assert flood(world)


def test_one_pin_in_the_place_of_another_is_noticed():
    world = World(20, {"a": 8, "b": 8}, max_running=1)
    world.pin("a")
    long = world.add(4, 30)
    waiting = world.add(24, 4, "a")
    world.step()
    assert waiting in world.scheduler.waiting
    # As many blocks are pinned as before, but not those that it needs any more.
    world.memory.pin(world.store.look_up("a"), pinned=False)
    world.scheduler.remove(long)
    world.pin("b")
    world.steps()
    ((refused, error),) = world.refused
    assert refused is waiting
    assert type(error) is CapacityError
    assert "beside adapter a the memory holds 16 tokens" in str(error)


def test_a_quota_that_was_lowered_meanwhile_is_noticed():
    limits = {"resident_bytes": 300}
    policy = {"limits_of": lambda tenant: TenantLimits(**limits)}
    world = World(60, {"a": 5}, adapter_bytes=200, policy=policy, max_running=1)
    running, waiting = world.add(4, 20), world.add(4, 2, "a")
    world.step()
    world.threads.run()
    world.step()
    limits["resident_bytes"] = 199
    world.steps()
    assert world.done == [running]
    assert [sequence for sequence, _ in world.refused] == [waiting]
    assert "takes 200 bytes" in str(world.refused[0][1])


def test_adapters_of_others_are_read_while_a_tenant_waits_for_its_own_quota():
    own = {f"a{i}": 2 for i in range(20)}
    policy = {"limits_of": lambda t: TenantLimits(resident_bytes=100) if t == "full" else NO_LIMITS}
    world = World(100, {**own, "b": 2}, adapter_bytes=100, policy=policy)
    long = world.add(4, 200, "a0", tenant="full")
    world.step()
    world.threads.run()
    world.step()
    for name in [*own][1:]:
        world.add(4, 2, name, tenant="full")
    other = world.add(4, 2, "b", tenant="other")
    world.scheduler.counters.charge("other", 1e6)
    for _ in range(30):
        world.threads.run()
        world.step()
    assert long in world.scheduler.running
    assert other in world.done
    # What waits for its own tenant is not read without end.
    assert len(world.host) < 12


def test_who_was_overtaken_often_keeps_the_room_for_his_adapter_while_it_is_copied():
    world = World(20, {"a": 8}, store={"copies": "manual", "host_bytes": 9})
    waiting = world.add(16, 4, "a")
    waiting.num_skipped = MAX_SKIPS
    world.step()
    world.threads.run()
    small = [world.add(16, 4), world.add(16, 4)]
    world.step()
    assert world.memory.placing == [waiting.adapter]
    assert set(small) <= set(world.scheduler.waiting)
    world.copies.run()
    assert waiting in [part.sequence for part in world.step()]
    world.steps()
    assert {waiting, *small} == set(world.done)


def test_a_mixture_too_large_for_its_quota_is_refused_however_its_sizes_become_known():
    """Others have its parts read, and evicted, while it is not the time to read them for it."""
    policy = {
        "limits_of": lambda t: TenantLimits(resident_bytes=100) if t == "small" else NO_LIMITS
    }
    world = World(60, {"a": 5, "b": 5}, adapter_bytes=100, policy=policy, max_running=1)
    world.add(4, 2, "b")
    world.steps()
    world.memory.reclaim(60)
    world.add(4, 30, "a")
    mixture = world.add(4, 2, "a:1+b:1", tenant="small")
    world.steps()
    assert [sequence for sequence, _ in world.refused] == [mixture]
    assert "takes 200 bytes" in str(world.refused[0][1])


@pytest.mark.parametrize("computed", [False, True])
def test_adapters_do_not_put_each_other_out_before_anybody_starts(computed):
    """Two adapters that do not fit together with a prompt, and nobody runs: whoever was charged for
    his adapter stands behind the other when it has come."""
    sizes = {"a": 14, "b": 14}
    world = World(27, sizes, adapter_bytes=10**8, store={"copies": "manual", "host_bytes": 10**9})
    if computed:
        world.loader.virtual = {"a": 56, "b": 56}
    waiting = [world.add(32, 2, name, tenant=name) for name in ("a", "b", "a", "b")]
    for _ in range(100):
        world.threads.run()
        world.step()
        world.copies.run()
    assert set(waiting) == set(world.done)
    assert world.memory.num_loads <= 4
