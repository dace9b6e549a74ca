"""Who runs next: budget, admission by memory, overtaking, starvation, preemption."""

import random

import pytest
from policy_fakes import World, counts

from gossamer.errors import CapacityError
from gossamer.serving.core.adapter import Heat
from gossamer.serving.scheduler.admission import MAX_SKIPS


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


def test_idle_adapters_are_weighed_once_for_all_that_grow_in_a_step(monkeypatch):
    world = World(13, {"a": 3, "b": 3, "c": 3})
    for name in "abc":
        world.add(4, 1, name)
    world.steps()
    decoding = [world.add(4, 5) for _ in range(4)]
    world.step()
    assert world.memory.num_free == 0
    weighed, chance = [], Heat.chance
    monkeypatch.setattr(Heat, "chance", lambda heat, now: weighed.append(heat) or chance(heat, now))
    world.step()
    # Each took a block: two adapters had to go, the least valuable of three.
    assert [len(sequence.blocks) for sequence in decoding] == [2, 2, 2, 2]
    assert len(world.memory.resident) == 1
    assert len(weighed) == 3


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
    original = world.scheduler.admission.fits
    world.scheduler.admission.fits = lambda s: tried.append(s) or original(s)
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
    assert not len(world.host)
    world.memory.reclaim(num_blocks)
    assert world.pool.num_free == num_blocks
    assert world.pool.num_free == num_blocks
