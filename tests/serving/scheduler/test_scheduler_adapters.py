"""The scheduler and adapters: reading, placing, evicting, refusing; without a tensor."""

import pytest
from policy_fakes import World, counts

from gossamer.errors import AdapterFormatError, AdapterReplacedError, CapacityError
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.scheduler.admission import MAX_SKIPS
from gossamer.serving.scheduler.order import LOAD_AHEAD


def test_an_adapter_is_read_then_placed_then_used():
    world = World(50, {"a": 5})
    sequence = world.add(4, 3, "a")
    assert world.step() == []
    assert sequence.adapter.state is AdapterState.LOADING
    world.threads.run()
    assert world.rings == 1
    assert counts(world.step()) == {"1": 4}
    assert sequence.adapter.state is AdapterState.RESIDENT
    world.steps()
    assert sequence.adapter.users == 0
    assert world.pool.num_free == 45


def test_a_slow_read_stalls_nobody_else():
    world = World(400, {"slow": 5}, max_running=4)
    slow = world.add(4, 3, "slow")
    others = [world.add(4, 3) for _ in range(3 * MAX_SKIPS)]
    for _ in range(1000):
        if not world.step():
            break
    assert set(world.done) == set(others)
    world.threads.run()
    world.steps()
    assert world.done[-1] is slow


def test_an_adapter_larger_than_what_is_free_waits_while_others_go_on():
    world = World(20, {"big": 15}, expected_new_tokens=64)
    long = world.add(4, 36)
    world.step()
    big = world.add(4, 3, "big")
    small = [world.add(4, 3) for _ in range(5)]
    world.threads.run()
    for _ in range(30):
        assert world.step()
    assert set(small) == set(world.done)
    world.steps()
    assert {long, big} <= set(world.done)
    assert not world.refused


def test_an_adapter_larger_than_the_pool_is_refused_and_nobody_else():
    world = World(20, {"huge": 21, "exact": 20, "fits": 18})
    refused = {world.add(4, 3, name) for name in ("huge", "exact")}
    served = [world.add(4, 3), world.add(4, 3, "fits")]
    world.steps()
    assert {sequence for sequence, _ in world.refused} == refused
    assert all(type(error) is CapacityError for _, error in world.refused)
    assert set(world.done) == set(served)
    with pytest.raises(CapacityError, match="huge needs 21 blocks and the pool has 20"):
        world.add(4, 3, "huge")


def test_a_request_too_long_beside_its_adapter_is_refused():
    world = World(20, {"a": 15})
    world.add(10, 10, "a")  # 5 blocks of 4 tokens are left: exactly fits
    world.add(10, 11, "a")
    open_end = world.add(10, None, "a")
    world.steps()
    assert [(s.request.request_id, type(e)) for s, e in world.refused] == [("2", CapacityError)]
    assert "holds 20 tokens" in str(world.refused[0][1])
    assert open_end.num_generated == 10


def test_a_prompt_that_fills_the_room_beside_its_adapter_is_refused():
    world = World(20, {"a": 15})
    world.add(20, None, "a")
    world.add(19, None, "a")
    world.steps()
    assert [s.request.request_id for s, _ in world.refused] == ["1"]
    assert world.done[0].num_generated == 1


def test_a_pool_exactly_full_of_idle_adapters_makes_progress():
    world = World(10, {"a": 4, "b": 4, "c": 8})
    for name in ("a", "b", "c", "a", "b", "c"):
        world.add(4, 2, name)
        world.steps()
    assert len(world.done) == 6
    assert world.memory.num_evictions >= 4


def test_idle_adapters_go_longest_unused_first_and_used_ones_stay():
    world = World(20, {"a": 5, "b": 5, "c": 5, "d": 5})
    for name in ("a", "b", "c"):
        world.add(2, 1, name)
        world.steps()
    world.add(2, 1, "a")  # now b is the longest unused
    world.steps()
    assert {entry.name for entry in world.memory.resident} == {"a", "b", "c"}
    running = world.add(2, 20, "c")
    world.step()
    world.add(2, 1, "d")
    world.threads.run()
    world.step()
    world.threads.run()
    world.step()
    assert {entry.name for entry in world.memory.resident} == {"a", "c", "d"}
    assert running.adapter.users == 1


def test_a_growing_sequence_takes_idle_adapters_before_it_preempts():
    world = World(12, {"a": 6}, expected_new_tokens=1)
    world.add(4, 1, "a")
    world.steps()
    world.add(4, 40)
    world.steps()
    assert world.memory.num_evictions == 1
    assert world.scheduler.num_preemptions == 0


def test_an_evicted_adapter_comes_back():
    world = World(10, {"a": 8, "b": 8})
    for name in "abab":
        world.add(4, 3, name)
    world.steps()
    assert len(world.done) == 4
    assert world.memory.num_loads >= 2
    assert world.loader.placed[0] == "a@0"


def test_who_has_said_nothing_yet_takes_the_present_version():
    world = World(40, {"a": 5})
    world.add(4, 1, "a")
    world.steps()
    waiting = world.add(4, 3, "a")
    former = waiting.adapter
    world.memory.reclaim(40)
    world.folder.versions["a"] += 1
    world.steps()
    assert world.done[-1] is waiting
    assert waiting.adapter is not former
    assert world.loader.placed == ["a@0", "a@1"]
    assert not world.refused


def test_who_has_begun_with_a_lost_version_is_told_so():
    # Without a block for the adapter when the first one is at its longest.
    world = World(19, {"a": 5}, expected_new_tokens=1)
    first = world.add(4, 56)
    begun = world.add(4, 40, "a")
    world.threads.run()
    for _ in range(200):
        world.threads.run()
        world.step()
        if begun.num_generated and begun.adapter.state is AdapterState.LOADING:
            break
    assert begun in world.scheduler.waiting
    assert world.scheduler.num_preemptions == 1
    world.folder.versions["a"] += 1
    world.steps()
    assert first in world.done
    ((refused, error),) = world.refused
    assert refused is begun
    assert type(error) is AdapterReplacedError
    assert "adapter a was replaced" in str(error)
    assert world.add(4, 1, "a").adapter is not begun.adapter


def test_what_cannot_be_read_fails_alone():
    world = World(30, {"broken": 4, "good": 4})
    world.loader.errors["broken"] = AdapterFormatError("no good")
    world.add(4, 3, "broken")
    world.add(4, 3, "broken")
    good = world.add(4, 3, "good")
    world.steps()
    assert [str(error) for _, error in world.refused] == ["no good"] * 2
    assert world.done == [good]
    with pytest.raises(AdapterFormatError, match="no good"):
        world.add(4, 3, "broken")


def test_a_readers_own_bug_is_the_adapters_error():
    world = World(30, {"odd": 4})
    world.loader.errors["odd"] = ZeroDivisionError("oops")
    world.add(4, 3, "odd")
    world.steps()
    assert "adapter odd cannot be read: oops" in str(world.refused[0][1])


def test_adapters_of_the_head_of_the_queue_are_read_ahead():
    names = [f"a{i}" for i in range(2 * LOAD_AHEAD)]
    world = World(500, dict.fromkeys(names, 2), max_running=1)
    world.add(4, 50)
    world.step()
    for name in names:
        world.add(4, 1, name)
    world.step()
    # Though nothing more can run now.
    assert len(world.threads.jobs) == LOAD_AHEAD
    world.steps()
    assert len(world.done) == 1 + len(names)


@pytest.mark.parametrize(
    ("host_bytes", "running", "read"),
    [
        (99, 2 * LOAD_AHEAD, 2 * LOAD_AHEAD),
        (99, LOAD_AHEAD + 3, LOAD_AHEAD + 3),
        (LOAD_AHEAD + 5, 2 * LOAD_AHEAD, LOAD_AHEAD + 5),
        (1, 2 * LOAD_AHEAD, LOAD_AHEAD),
    ],
)
def test_all_that_could_start_now_are_read_if_memory_allows(host_bytes, running, read):
    """A burst of requests for small adapters waits for their reading, not for steps between."""
    names = [f"a{i}" for i in range(3 * LOAD_AHEAD)]
    store = {"host_bytes": host_bytes}
    world = World(500, dict.fromkeys(names, 2), max_running=running, store=store)
    for name in names:
        world.add(4, 1, name)
    world.step()
    assert len(world.threads.jobs) == read
    world.steps()
    assert len(world.done) == len(names)


def test_rows_that_nobody_waits_for_are_forgotten():
    world = World(50, {"a": 5, "b": 5}, max_running=1)
    world.add(4, 30)
    world.step()
    waiting = [world.add(4, 1, name) for name in "ab"]
    world.step()
    world.threads.run()
    world.step()
    assert [s.adapter.state for s in waiting] == [AdapterState.HOST] * 2
    world.scheduler.remove(waiting[0])
    world.step()
    assert [s.adapter.state for s in waiting] == [AdapterState.REGISTERED, AdapterState.HOST]
    assert waiting[0].adapter.rows is None
    world.steps()
    assert waiting[1] in world.done
