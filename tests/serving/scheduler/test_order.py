"""Taking turns: nobody who runs may starve, however small the budget of a step."""

import pytest
from policy_fakes import World


def test_all_decodes_come_round_when_there_are_more_of_them_than_tokens():
    world = World(200, max_batch_tokens=4, max_running=10)
    for _ in range(3):
        world.add(1, 60)
    world.step()
    sequences = [*world.scheduler.running]
    # Seven more get in while fewer than four decode; after that there is no room for prompts.
    while len(world.scheduler.running) < 4:
        sequences.append(world.add(1, 60))
        world.step()
    for _ in range(20):
        before = {s: s.num_generated for s in sequences}
        world.step()
        assert all(s.num_generated > before[s] for s in sequences)


@pytest.mark.parametrize(("budget", "count"), [(1, 3), (2, 7), (3, 8), (5, 8)])
def test_no_running_sequence_waits_longer_than_a_round(budget, count):
    world = World(400, max_batch_tokens=64, max_running=8, expected_new_tokens=64)
    for _ in range(count):
        world.add(4, 50)
    world.step()
    assert len(world.scheduler.running) == count
    object.__setattr__(world.limits, "max_batch_tokens", budget)
    round_ = -(-count // budget)
    waits = dict.fromkeys(world.scheduler.running, 0)
    while len(world.scheduler.running) == count:
        planned = {part.sequence for part in world.step()}
        for sequence in waits:
            waits[sequence] = 0 if sequence in planned else waits[sequence] + 1
        assert max(waits.values()) < round_
    world.steps()
    assert len(world.done) == count


def test_a_prompt_gets_its_turn_among_too_many_decodes():
    world = World(400, max_batch_tokens=64, max_running=9, expected_new_tokens=400)
    for _ in range(8):
        world.add(4, 100)
    world.step()
    late = world.add(30, 1)
    object.__setattr__(world.limits, "max_batch_tokens", 9)
    world.step()
    object.__setattr__(world.limits, "max_batch_tokens", 8)
    steps = 0
    while late not in world.done:
        world.step()
        steps += 1
    # Four chunks of eight, each after a round of the decodes.
    assert steps <= 8
