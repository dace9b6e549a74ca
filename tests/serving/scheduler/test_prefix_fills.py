"""Virtual tokens that the model computes: in chunks beside other requests, for those who wait."""

import pytest
from policy_fakes import World, counts

from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.scheduler.fairness import PROMPT_CHARGE


def world_of(virtual, num_blocks=200, **options):
    """A world with one adapter, `p`, of so many virtual tokens in blocks of 4."""
    world = World(num_blocks, {"p": -(-virtual // 4), "q": 5}, **options)
    world.loader.virtual["p"] = virtual
    return world


def fill_of(plan):
    """Virtual tokens in a step."""
    return sum(part.count for part in plan if part.sequence.prefix_of is not None)


def begin(world, **options):
    """A request for `p` whose adapter has been read."""
    sequence = world.add(4, 3, "p", **options)
    world.step()
    world.threads.run()
    assert world.step() == []
    assert world.scheduler.wants_step, "the engine must not sleep before the first chunk"
    assert sequence.adapter.state is AdapterState.PLACING
    return sequence


def test_virtual_tokens_take_half_of_a_step_and_the_request_starts_after_the_last():
    world = world_of(40)
    sequence = begin(world)
    plans = [world.step() for _ in range(4)]
    assert [fill_of(plan) for plan in plans] == [16, 16, 8, 0]
    assert counts(plans[3]) == {"1": 4}
    assert sequence.adapter.state is AdapterState.RESIDENT
    assert world.loader.placed == ["p@0"]
    world.steps()
    assert world.done == [sequence]
    assert world.memory.num_loads == 1


def test_who_decodes_and_who_comes_meanwhile_goes_on():
    world = world_of(400)
    running = world.add(4, 200)
    world.step()
    begun = begin_beside(world)
    new = [world.add(12, 4) for _ in range(6)]
    steps = 0
    while begun.adapter.state is AdapterState.PLACING:
        before = running.num_generated
        plan = world.step()
        steps += 1
        assert running.num_generated == before + 1
        # At most seven decode, and the rest is halved.
        assert fill_of(plan) >= 12 or begun.adapter.state is AdapterState.RESIDENT
    assert steps <= 400 / 12
    assert set(new) <= set(world.done)
    world.steps()
    assert {running, begun} <= set(world.done)


def begin_beside(world):
    sequence = world.add(4, 3, "p")
    while sequence.adapter.state is not AdapterState.PLACING:
        world.threads.run()
        world.step()
    return sequence


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_step_of_few_tokens_gets_there_all_the_same(budget):
    world = world_of(30, max_batch_tokens=budget)
    for _ in range(5):
        world.add(4, 60)
    begun = begin_beside(world)
    world.steps()
    assert begun in world.done
    assert len(world.done) == 6


def test_one_prefix_after_the_other():
    world = world_of(40)
    world.folder.sizes["r"] = 10
    world.folder.versions["r"] = 0
    world.loader.virtual["r"] = 40
    both = [world.add(4, 3, name) for name in "pr"]
    world.step()
    world.threads.run()
    world.step()
    assert [s.adapter.state for s in both] == [AdapterState.PLACING] * 2
    filled = []
    for _ in range(20):
        filled += [p.sequence.prefix_of.name for p in world.step() if p.sequence.prefix_of]
    assert filled == ["p"] * 3 + ["r"] * 3
    assert world.done == both


def test_nobody_left_to_wait_ends_it_and_frees_its_blocks():
    world = world_of(40)
    sequence = begin(world)
    assert fill_of(world.step()) == 16
    world.scheduler.remove(sequence)
    assert world.step() == []
    assert not world.scheduler.wants_step
    assert world.pool.num_free == 200
    assert sequence.adapter.state is not AdapterState.PLACING
    # Begun again, it is computed from its first token.
    again = world.add(4, 3, "p")
    filled = 0
    for _ in range(10):
        world.threads.run()
        filled += fill_of(world.step())
    assert filled == 40
    assert world.done == [again]


def test_another_who_waits_has_the_work_that_was_done():
    world = world_of(40)
    first = begin(world)
    second = world.add(4, 3, "p")
    world.step()
    world.scheduler.remove(first)
    assert [fill_of(world.step()) for _ in range(2)] == [16, 8]
    world.steps()
    assert world.done == [second]


def test_an_unload_waits_for_nothing_when_nobody_waits():
    world = world_of(40)
    sequence = begin(world)
    gone = []
    world.store.unload("p", lambda: gone.append(True))
    assert gone == []
    world.scheduler.remove(sequence)
    world.step()
    assert gone == [True]
    assert world.pool.num_free == 200


def test_a_step_that_fails_refuses_the_adapter_and_frees_its_blocks():
    world = world_of(40)
    waiting, running = world.add(4, 3, "p"), world.add(4, 50)
    while waiting.adapter.state is not AdapterState.PLACING:
        world.threads.run()
        world.step()
    world.store.collect_loads()
    plan = world.scheduler.plan()
    assert fill_of(plan)
    assert world.scheduler.failed(plan, MemoryError("none left")) == [running]
    world.scheduler.remove(running)
    world.step()
    assert [(s, str(e)) for s, e in world.refused] == [
        (waiting, "adapter p cannot be placed now: no memory is left; try again")
    ]
    assert world.pool.num_free == 200
    later = world.add(4, 3, "p")
    world.steps()
    assert world.done == [later]


def test_the_table_that_cannot_be_made_refuses_the_adapter():
    world = world_of(40)
    world.loader.place = lambda *_: 1 / 0
    world.add(4, 3, "p")
    other = world.add(4, 3)
    world.steps()
    assert "division by zero" in str(world.refused[0][1])
    assert world.done == [other]
    assert world.pool.num_free == 200


def test_who_comes_to_need_it_first_is_charged_and_again_after_an_eviction():
    world = world_of(40)
    charge, charges = world.scheduler.counters.charge, []
    world.scheduler.counters.charge = lambda *args: charges.append(args) or charge(*args)
    begin(world, tenant="first")
    assert charges == [("first", 40 * PROMPT_CHARGE)]
    world.add(4, 3, "p", tenant="second")
    world.steps()
    assert [each for each in charges if each[1] >= 40] == charges[:1]
    world.memory.reclaim(200)
    world.add(4, 1, "p", tenant="second")
    world.steps()
    assert charges.count(("second", 40 * PROMPT_CHARGE)) == 1
    assert charges.count(("first", 40 * PROMPT_CHARGE)) == 1


def test_copies_in_the_background_are_charged_like_those_made_at_once():
    charged = []
    for copies in (None, "manual"):
        world = World(60, {"a": 5}, adapter_bytes=10**7, store={"copies": copies})
        world.add(4, 3, "a")
        world.steps()
        charged.append(world.scheduler.counters.of("default"))
    assert charged[0] == charged[1] > 4


def test_evictions_repeat_it_but_stall_nobody():
    """Two large prefixes that do not fit together, asked for in turn beside a stream of tokens."""
    world = world_of(80, num_blocks=60)
    world.folder.sizes["r"] = 20
    world.folder.versions["r"] = 0
    world.loader.virtual["r"] = 80
    stream = world.add(4, 100)
    world.step()
    waiting = [world.add(4, 1, name) for name in "prprpr"]
    for _ in range(100):
        world.threads.run()
        before = stream.num_generated
        world.step()
        assert stream.num_generated == before + 1 or not stream.num_left
    world.steps()
    assert set(waiting) <= set(world.done)
    assert stream in world.done
