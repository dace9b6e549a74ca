"""Who runs next: budget, admission by memory, overtaking, starvation, preemption."""

import random

import pytest
from policy_fakes import World

from gossamer.errors import AdapterFormatError, CapacityError
from gossamer.serving.adapter_entry import AdapterState
from gossamer.serving.scheduler import LOAD_AHEAD, MAX_SKIPS


def counts(plan):
    return {part.sequence.request.request_id: part.count for part in plan}


def test_decodes_come_before_prompts_and_prompts_come_in_chunks():
    world = World(100, max_batch_tokens=10)
    world.add(3, 5)
    assert counts(world.step()) == {"1": 3}
    world.add(25, 5)
    assert counts(world.step()) == {"1": 1, "2": 9}
    assert counts(world.step()) == {"1": 1, "2": 9}
    # The third joins as soon as the second's prompt leaves room.
    world.add(4, 5)
    assert counts(world.step()) == {"1": 1, "2": 7, "3": 2}
    assert counts(world.step()) == {"1": 1, "2": 1, "3": 2}


def test_a_decode_never_waits_for_a_prompt():
    world = World(1000, max_batch_tokens=16, max_running=8)
    first = world.add(3, 200)
    world.step()
    for _ in range(40):
        world.add(100, 2)
    for _ in range(199):
        before = first.num_generated
        world.step()
        assert first.num_generated == before + 1
    assert not first.num_left


def test_a_budget_of_one_token_still_ends_all():
    world = World(100, max_batch_tokens=1)
    for _ in range(3):
        world.add(5, 4)
    world.steps()
    assert len(world.done) == 3


def test_not_more_run_than_allowed():
    world = World(1000, max_running=3)
    for _ in range(7):
        world.add(2, 3)
    world.step()
    assert len(world.scheduler.running) == 3
    world.steps()
    assert len(world.done) == 7


def test_admission_counts_the_tokens_to_come():
    # 12 blocks of 4 tokens; each request will need 5 blocks at its end.
    world = World(12, expected_new_tokens=16)
    for _ in range(3):
        world.add(4, 16)
    world.step()
    assert len(world.scheduler.running) == 2
    world.steps()
    assert len(world.done) == 3
    assert world.scheduler.num_preemptions == 0


def test_too_hopeful_an_expectation_is_repaired_by_preemption():
    world = World(10, expected_new_tokens=1)
    sequences = [world.add(4, 30) for _ in range(5)]
    world.steps()
    assert world.scheduler.num_preemptions > 0
    assert set(world.done) == set(sequences)
    assert all(s.num_generated == 30 for s in sequences)
    assert world.pool.num_free == 10


def test_the_oldest_is_preempted_last():
    world = World(10, expected_new_tokens=1)
    sequences = [world.add(4, 30) for _ in range(5)]
    for _ in range(30):
        assert sequences[0] in [part.sequence for part in world.step()]
    assert world.done == [sequences[0]]


def test_a_request_as_large_as_the_pool_gets_through_alone():
    world = World(10)
    for _ in range(3):
        world.add(10, 30)
    world.steps()
    assert len(world.done) == 3
    assert not world.refused


# Adapters.


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
    assert world.store.num_evictions >= 4


def test_idle_adapters_go_longest_unused_first_and_used_ones_stay():
    world = World(20, {"a": 5, "b": 5, "c": 5, "d": 5})
    for name in ("a", "b", "c"):
        world.add(2, 1, name)
        world.steps()
    world.add(2, 1, "a")  # now b is the longest unused
    world.steps()
    assert {entry.name for entry in world.store.resident} == {"a", "b", "c"}
    running = world.add(2, 20, "c")
    world.step()
    world.add(2, 1, "d")
    world.threads.run()
    world.step()
    world.threads.run()
    world.step()
    assert {entry.name for entry in world.store.resident} == {"a", "c", "d"}
    assert running.adapter.users == 1


def test_a_growing_sequence_takes_idle_adapters_before_it_preempts():
    world = World(12, {"a": 6}, expected_new_tokens=1)
    world.add(4, 1, "a")
    world.steps()
    world.add(4, 40)
    world.steps()
    assert world.store.num_evictions == 1
    assert world.scheduler.num_preemptions == 0


def test_an_evicted_adapter_comes_back():
    world = World(10, {"a": 8, "b": 8})
    for name in "abab":
        world.add(4, 3, name)
    world.steps()
    assert len(world.done) == 4
    assert world.store.num_loads >= 2
    assert world.loader.placed[0] == "a@0"


def test_who_has_said_nothing_yet_takes_the_present_version():
    world = World(40, {"a": 5})
    world.add(4, 1, "a")
    world.steps()
    waiting = world.add(4, 3, "a")
    former = waiting.adapter
    world.store.reclaim(40)
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


def test_nobody_is_overtaken_forever():
    world = World(20, max_running=8, expected_new_tokens=64)
    first = world.add(4, 8)
    world.step()
    large = world.add(60, 8)
    after = 0
    # A flood of small requests, two for each that ends.
    for _ in range(3000):
        world.add(4, 4)
        world.add(4, 4)
        after += sum(part.sequence.num_computed == 0 for part in world.step())
        if large.blocks:
            break
    else:
        raise AssertionError("starved")
    assert first in world.done
    assert large.num_skipped <= MAX_SKIPS + world.limits.max_running


def test_the_queue_is_not_searched_to_its_end_for_what_fits():
    world = World(20, max_running=8, expected_new_tokens=64)
    world.add(4, 60)
    world.step()
    for _ in range(5000):
        world.add(60, 8)
    tried = []
    original = world.scheduler._can_admit
    world.scheduler._can_admit = lambda s: tried.append(s) or original(s)
    world.step()
    assert 0 < len(tried) < 100


def test_cancelled_ones_free_what_they_hold():
    world = World(30, {"a": 5})
    sequences = [world.add(4, 9, "a"), world.add(4, 9), world.add(100, 9)]
    world.threads.run()
    world.step()
    world.threads.run()
    world.step()
    for sequence in sequences:
        world.scheduler.remove(sequence)
    assert world.pool.num_free == 25
    world.audit([])
    assert not world.scheduler.running
    assert not world.scheduler.waiting


def test_a_failed_placement_loses_no_blocks():
    world = World(30, {"a": 5})
    sequence = world.add(4, 9, "a")
    world.step()
    world.threads.run()
    place = world.loader.place

    def fail(rows, blocks):
        raise MemoryError

    world.loader.place = fail
    world.store.collect_loads()
    with pytest.raises(MemoryError):
        world.scheduler.plan()
    assert world.pool.num_free == 30
    world.audit([])
    world.loader.place = place
    world.steps()
    assert world.done == [sequence]


@pytest.mark.parametrize("seed", range(8))
def test_random_lives(seed):
    """Thousands of steps in tight memory: the books are right after each, and all requests end."""
    rng = random.Random(seed)
    num_blocks = rng.randint(12, 60)
    sizes = {f"a{i}": rng.randint(1, num_blocks + 2) for i in range(rng.randint(1, 12))}
    world = World(
        num_blocks,
        sizes,
        max_batch_tokens=rng.choice((1, 7, 32)),
        max_running=rng.choice((1, 4, 16)),
        expected_new_tokens=rng.choice((1, 8, 1000)),
        block_tokens=rng.choice((1, 4, 16)),
    )
    capacity = num_blocks * world.limits.block_tokens
    added, cancelled = [], set()
    for _ in range(400):
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            prompt = rng.randint(1, min(40, capacity - 1))
            new = rng.choice((None, rng.randint(1, min(30, capacity - prompt))))
            try:
                added.append(world.add(prompt, new, rng.choice([None, *sizes])))
            except CapacityError:
                continue
            if new is None:
                # Do not let one request fill the time of the test.
                added[-1].max_new_tokens = min(added[-1].max_new_tokens, 50)
        alive = [*world.scheduler.running, *world.scheduler.waiting]
        if alive and rng.random() < 0.05:
            victim = rng.choice(alive)
            world.scheduler.remove(victim)
            cancelled.add(victim)
        if rng.random() < 0.6:
            world.threads.run(1)
        world.step()
    world.steps(200_000)
    refused = {sequence for sequence, _ in world.refused}
    assert not world.scheduler.waiting
    assert not world.scheduler.running
    assert len(world.done) + len(refused) + len(cancelled) == len(added)
    assert set(world.done) | refused | cancelled == set(added)
    assert not world.store._host
    world.store.reclaim(num_blocks)
    assert world.pool.num_free == num_blocks
    assert world.pool.num_free == num_blocks
