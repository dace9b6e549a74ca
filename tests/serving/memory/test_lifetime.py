"""The life of an adapter: host cache, slow copies, value, pins, unloading; without a tensor."""

from dataclasses import replace

import pytest
from policy_fakes import World

from gossamer.errors import CapacityError, UnknownModelError
from gossamer.serving.core.adapter import HALF_LIFE, Heat, value
from gossamer.serving.core.adapter_state import AdapterState


def reads(world):
    """Count what is read from now on."""
    found = []
    load = world.loader.load
    world.loader.load = lambda entry: found.append(entry.name) or load(entry)
    return found


def run(world, adapter, **options):
    sequence = world.add(4, 2, adapter, **options)
    world.steps()
    assert sequence in world.done
    return sequence


def _left(world):
    return len(world.scheduler.running) + len(world.scheduler.waiting)


# Host cache.


def test_an_evicted_adapter_comes_back_without_reading():
    world = World(20, {"a": 5}, store={"host_bytes": 10})
    run(world, "a")
    world.memory.reclaim(20)
    assert world.store.look_up("a").state is AdapterState.HOST
    found = reads(world)
    run(world, "a")
    assert found == []
    assert world.memory.num_loads == 2
    assert world.store.stats().hits == {"disk": 1, "host": 1, "resident": 0}


def test_the_host_cache_keeps_its_bound_and_forgets_the_longest_unused():
    world = World(40, dict.fromkeys("abcd", 5), store={"host_bytes": 3})
    for name in "abcd":
        run(world, name)
    world.memory.reclaim(40)
    assert world.host.num_bytes <= 3
    states = {name: world.store.look_up(name).state for name in "abcd"}
    assert states["a"] is AdapterState.REGISTERED
    assert {states[name] for name in "bcd"} == {AdapterState.HOST}


def test_rows_that_a_waiting_request_needs_are_not_dropped():
    world = World(12, {"a": 5, "big": 11}, store={"host_bytes": 0}, expected_new_tokens=64)
    running = world.add(4, 28)
    world.step()
    waiting = world.add(2, 1, "big")
    for _ in range(5):
        world.threads.run()
        world.step()
    assert waiting.adapter.state is AdapterState.HOST
    assert waiting.adapter.rows is not None
    world.steps()
    assert set(world.done) == {running, waiting}


def test_replaced_files_free_the_former_rows_and_blocks_at_once():
    world = World(40, {"a": 5}, store={"host_bytes": 10})
    old = world.add(4, 20, "a")
    world.step()
    world.threads.run()
    world.step()
    world.folder.versions["a"] += 1
    run(world, "a")
    assert old.adapter.table is None
    assert world.host.num_bytes == 1
    assert [entry.table[0] for entry in world.memory.resident] == ["a@1"]


# Slow copies.


def test_a_slow_copy_stalls_nobody_and_nobody_uses_it_early():
    """The order of events, with a copy that ends when the test says so."""
    world = World(100, {"slow": 5, "quick": 5}, store={"copies": "manual"})
    run(world, "quick")
    slow = world.add(4, 3, "slow")
    quick = world.add(4, 20, "quick")
    world.step()
    world.threads.run()
    for _ in range(10):
        plan = world.step()
        assert [part.sequence for part in plan] == [quick], "others go on"
        assert slow.adapter.state is AdapterState.PLACING
        assert slow.adapter.table is None
        assert len(slow.adapter.blocks) == 5, "its blocks are taken before the copy begins"
        assert not world.memory.reclaim(100), "and nobody can take them meanwhile"
    rings = world.rings
    world.copies.run()
    assert world.rings == rings + 1, "the end of the copy wakes the engine"
    assert slow.adapter.table is None, "it is taken over at the begin of a step only"
    plan = world.step()
    assert slow.adapter.state is AdapterState.RESIDENT
    assert slow in [part.sequence for part in plan]
    world.steps()
    assert world.memory.num_loads == 2


def test_small_rows_are_copied_between_two_steps_and_no_more_than_a_few_at_a_time():
    store = {"copies": "manual", "at_once_bytes": 2}
    world = World(100, dict.fromkeys("abc", 5), store=store)
    waiting = [world.add(4, 20, name) for name in "abc"]
    world.step()
    world.threads.run()
    assert [part.sequence for part in world.step()] == waiting[:2]
    assert waiting[2].adapter.state is AdapterState.PLACING
    world.copies.run()
    assert [part.sequence for part in world.step()] == waiting
    later = world.add(4, 2, "b")
    world.memory.reclaim(100)
    assert later in [part.sequence for part in world.step()], "each step has its own allowance"


def test_the_source_of_a_copy_is_kept_until_it_has_ended():
    world = World(40, {"a": 5}, store={"copies": "manual", "host_bytes": 0})
    sequence = world.add(4, 2, "a")
    world.step()
    world.threads.run()
    world.step()
    world.scheduler.remove(sequence)
    gone = []
    world.store.unload("a", lambda: gone.append(True))
    world.step()
    assert sequence.adapter.state is AdapterState.PLACING
    assert sequence.adapter.rows is not None
    assert gone == []
    world.copies.run()
    world.step()
    assert gone == [True]
    assert world.pool.num_free == 40


def test_a_copy_that_fails_gives_its_blocks_back_and_ends_only_its_requests():
    world = World(40, {"a": 5}, store={"copies": "manual"})
    world.loader.place = lambda *_: 1 / 0
    world.add(4, 2, "a")
    other = world.add(4, 2)
    world.steps()
    assert [str(error) for _, error in world.refused] == [
        "adapter a cannot be placed: division by zero"
    ]
    assert world.done == [other]
    assert world.pool.num_free == 40


def test_prefetch_takes_free_blocks_only():
    world = World(
        26, {"a": 8, "b": 8, "c": 8}, store={"copies": "manual"}, prefetch=8, max_running=1
    )
    run(world, "a")
    world.add(4, 30)
    world.step()
    for name in ("b", "c"):
        world.add(4, 2, name)
    world.step()
    world.threads.run()
    world.step()
    world.copies.run()
    world.step()
    placed = {entry.name for entry in world.memory.resident}
    assert placed == {"a", "b"}, "c would need a's blocks, which may be wanted again"
    assert world.memory.num_evictions == 0
    world.steps()
    assert len(world.done) == 4


# Value.


def test_chance_of_a_use_fades():
    heat = Heat()
    assert heat.chance(0.0) == 0.0
    heat.touch(0.0)
    assert heat.chance(0.0) == 0.5
    assert heat.chance(HALF_LIFE) == pytest.approx(1 - 2**-0.5)
    for _ in range(20):
        heat.touch(1.0)
    assert 0.99 < heat.chance(1.0) <= 1.0
    assert value(0.5, 2.0, 10) == 0.1


def takes(entry, seconds):
    """Pretend that reading `entry` took so long."""
    entry.learn(replace(entry.facts, read_seconds=seconds))


def test_what_saves_the_least_time_per_block_goes_first():
    now = [0.0]
    world = World(
        60, {"rare": 5, "often": 5, "large": 20, "slow": 5}, store={"clock": lambda: now[0]}
    )
    for name in ("slow", "often", "often", "often", "large", "rare"):
        now[0] += 1
        run(world, name)
        takes(world.store.look_up(name), 10.0 if name == "slow" else 0.1)
    order = []
    while world.memory.resident:
        before = set(world.memory.resident)
        world.memory.reclaim(world.pool.num_free + 1)
        order += [entry.name for entry in before - set(world.memory.resident)]
    assert order == ["large", "rare", "often", "slow"]


@pytest.mark.parametrize("alike", [False, True])
def test_prefixes_make_room_for_adapters_where_no_prompt_begins_like_another(alike):
    clock = {"clock": lambda: 0.0}
    world = World(60, {"a": 5}, store=clock, prefixes={"enabled": True, **clock})
    world.prefixes.learn_seconds_per_token(0.01)
    for number in range(20):
        world.add(8, 1, prompt=[1000 if alike else number] * 8)
        world.steps()
    run(world, "a")
    adapter = world.store.look_up("a")
    takes(adapter, 0.05)
    world.memory.reclaim(world.pool.num_free + 1)
    assert (adapter in world.memory.resident) is not alike


def test_an_adapter_that_a_waiting_request_wants_goes_last():
    world = World(40, {"a": 5, "b": 5}, max_running=1)
    run(world, "a")
    run(world, "b")
    world.add(4, 30)
    world.step()
    world.add(4, 2, "a")
    assert world.memory.reclaim(world.pool.num_free + 1)
    assert [entry.name for entry in world.memory.resident] == ["a"]


# Pins.


def test_a_pinned_adapter_stays():
    world = World(40, {"a": 5, "b": 5})
    run(world, "a")
    run(world, "b")
    entry = world.store.look_up("a")
    world.memory.pin(entry, pinned=True)
    assert not world.memory.reclaim(40)
    assert world.memory.resident == [entry]
    world.memory.pin(entry, pinned=False)
    assert world.memory.reclaim(40)


def test_pins_leave_half_of_the_pool():
    world = World(40, {"a": 12, "b": 12})
    for name in "ab":
        run(world, name)
    world.memory.pin(world.store.look_up("a"), pinned=True)
    with pytest.raises(CapacityError, match="adapter b takes 12 blocks, and 12 of 40"):
        world.memory.pin(world.store.look_up("b"), pinned=True)


def test_a_pinned_version_that_is_superseded_is_freed_and_its_name_told():
    world = World(40, {"a": 8})
    for version in range(4):
        world.folder.versions["a"] = version
        world.pin("a")
        world.step()
        assert world.memory.num_pinned_blocks == 8
        assert world.memory.pop_lost_pins() == (["a"] if version else [])
        world.audit([])
    world.memory.pin(world.store.look_up("a"), pinned=False)
    assert world.memory.num_pinned_blocks == 0
    world.memory.reclaim(40)
    assert world.pool.num_free == 40


def test_a_pinned_version_in_use_stays_until_its_requests_have_ended():
    world = World(40, {"a": 8})
    former = world.pin("a")
    running = world.add(4, 9, "a")
    world.step()
    world.folder.versions["a"] += 1
    assert world.store.look_up("a") is not former
    world.step()
    assert not former.pinned
    assert former.state is AdapterState.RESIDENT
    world.steps()
    assert world.done == [running]
    assert former.state is not AdapterState.RESIDENT
    assert world.pool.num_free == 40


def test_an_unpin_holds_for_every_version_of_the_name():
    world = World(40, {"a": 8})
    former = world.pin("a")
    world.folder.versions["a"] += 1
    world.store.look_up("a")
    world.store.unpin("a")
    world.step()
    assert not former.pinned
    assert world.memory.pop_lost_pins() == []
    assert world.pool.num_free == 40


def test_a_pinned_adapter_whose_files_are_gone_is_let_go():
    world = World(40, {"a": 8})
    former = world.pin("a")
    del world.folder.sizes["a"]
    with pytest.raises(UnknownModelError):
        world.store.look_up("a")
    world.step()
    assert not former.pinned
    assert world.pool.num_free == 40


def test_requests_that_no_longer_fit_beside_a_pin_are_told_so():
    world = World(40, {"a": 15, "b": 5}, expected_new_tokens=200)
    run(world, "a")
    running = world.add(4, 100)
    world.step()
    waiting = [world.add(4, 140), world.add(4, 100, "b")]
    world.memory.pin(world.store.look_up("a"), pinned=True)
    world.steps()
    # Who runs is told when there is no block left for the next token.
    assert [sequence for sequence, _ in world.refused] == [*waiting, running]
    assert all(type(error) is CapacityError for _, error in world.refused)


# Unloading.


def test_unload_waits_and_accepted_requests_end_with_the_old_weights():
    world = World(60, {"a": 5}, max_running=1)
    running = world.add(4, 10, "a")
    world.step()
    world.threads.run()
    world.step()
    waiting = world.add(4, 3, "a")
    gone = []
    world.store.unload("a", lambda: gone.append(_left(world)))
    with pytest.raises(UnknownModelError):
        world.add(4, 3, "a")
    assert [status.state for status in world.store.statuses()] == ["draining"]
    world.steps()
    assert world.done == [running, waiting]
    assert gone == [0]
    assert running.adapter.state is AdapterState.REMOVED
    assert world.pool.num_free == 60
    assert world.store.statuses() == []


def test_a_name_that_was_unloaded_can_be_loaded_again():
    world = World(60, {"a": 5})
    run(world, "a")
    gone = []
    world.store.unload("a", lambda: gone.append(True))
    assert gone == [True]
    world.folder.versions["a"] += 1
    entry = world.names.give("a", None)
    assert run(world, "a").adapter is entry
    assert entry.digest == "a@1"


def test_unloading_what_is_not_there():
    world = World(60, {"a": 5})
    with pytest.raises(UnknownModelError):
        world.store.unload("b", lambda: None)
    world.store.unload("a", lambda: None)
    with pytest.raises(UnknownModelError):
        world.store.unload("a", lambda: None)


def test_a_request_on_its_way_while_its_adapter_goes_is_told_so():
    world = World(60, {"a": 5})
    look_up = world.store.look_up

    def look_up_just_before_it_goes(name):
        entry = look_up(name)
        world.store.unload(name, lambda: None)
        return entry

    world.store.look_up = look_up_just_before_it_goes
    world.add(4, 3, "a")
    world.steps()
    ((_, error),) = world.refused
    assert type(error) is UnknownModelError
    assert str(error) == "adapter 'a' has been unloaded"
