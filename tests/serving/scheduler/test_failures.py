"""What fails while requests are planned ends those it is about, and nobody is lost."""

import pytest
from policy_fakes import World

from gossamer.errors import AdapterReadError
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.tenants import NO_LIMITS

PROMPT = tuple(range(16))


def no_memory(*_):
    raise MemoryError


def ends(world):
    return {sequence for sequence, _ in world.refused}, set(world.done)


@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.parametrize("copies", [None, "manual"])
def test_a_placement_that_fails_ends_its_adapters_requests_only(caches, copies):
    world = World(60, {"a": 5}, prefixes={"enabled": caches}, store={"copies": copies})
    first = world.add(0, 1, "a", prompt=PROMPT)
    world.steps()
    world.memory.evict(world.store.look_up("a"))
    place, world.loader.place = world.loader.place, no_memory
    bystanders = [world.add(4, 50), world.add(0, 3, prompt=PROMPT)]
    victims = [world.add(0, 1, "a", prompt=PROMPT) for _ in range(2)]
    world.steps()
    assert ends(world) == (set(victims), {first, *bystanders})
    told = "adapter a cannot be placed now: no memory is left; try again"
    assert {str(error) for _, error in world.refused} == {told}
    assert {type(error) for _, error in world.refused} == {AdapterReadError}
    world.audit([])
    # The files are good: who asks next has it tried again.
    world.loader.place = place
    later = world.add(0, 1, "a", prompt=PROMPT)
    world.steps()
    assert later in world.done
    world.memory.reclaim(60)
    assert world.pool.num_free == 60


def test_a_mixture_of_which_one_part_cannot_be_placed_leaves_the_other_unused():
    world = World(60, {"a": 5, "b": 5})
    place = world.loader.place
    world.loader.place = lambda rows, *places: place(rows, *places) if "a" in rows else 1 / 0
    mixture, alone = world.add(4, 3, "a:0.5+b:0.5"), world.add(4, 3, "a")
    world.steps()
    assert ends(world) == ({mixture}, {alone})
    assert [entry.users for entry in world.memory.resident] == [0]
    world.audit([])


def test_the_engine_is_told_to_go_on_where_only_a_refusal_is_left():
    """It sleeps after an empty plan otherwise, and the request would wait for the next message."""
    world = World(60, {"a": 5})
    world.loader.place = no_memory
    world.add(4, 3, "a")
    world.step()
    world.threads.run()
    assert world.step() == []
    assert world.scheduler.wants_step
    assert world.step() == []
    assert len(world.refused) == 1
    assert not world.scheduler.wants_step


def test_the_engine_is_told_to_go_on_where_all_that_ran_was_put_back():
    world = World(20, {"a": 10}, expected_new_tokens=1)
    alone = world.add(4, 76)
    world.step()
    entry = world.pin("a")
    for _ in range(100):
        if not world.step():
            break
    assert world.scheduler.num_preemptions == 1
    assert world.scheduler.wants_step
    world.step()
    assert [sequence for sequence, _ in world.refused] == [alone]
    assert not world.scheduler.wants_step
    assert entry.pinned


@pytest.mark.parametrize("call", range(1, 12))
def test_limits_that_cannot_be_told_leave_every_request_in_one_place(call):
    """Whatever asks for a tenant's limits and fails: all requests can be ended afterwards, as the
    engine does, and the next ones are served."""
    calls = []

    def limits_of(tenant):
        calls.append(tenant)
        if len(calls) == call:
            raise ValueError("no such day")
        return NO_LIMITS

    policy = {"limits_of": limits_of}
    world = World(60, {"a": 5}, policy=policy, prefixes={"enabled": True})
    sequences = [world.add(0, 9, name, prompt=PROMPT) for name in ("a", None, "a")]
    world.store.start_load(sequences[0].adapter)
    world.threads.run()
    with pytest.raises(ValueError, match="no such day"):
        world.steps(9)
    for sequence in sequences:
        world.scheduler.remove(sequence)
    world.audit([])
    assert sequences[0].adapter.requests == 0
    assert not world.scheduler.waiting
    assert not world.scheduler.running
    assert not world.scheduler.counters.waiting
    later = world.add(0, 9, "a", prompt=PROMPT)
    world.steps()
    assert world.done == [later]
    assert later.adapter.state is AdapterState.RESIDENT


def test_who_was_refused_by_a_call_that_failed_can_be_ended():
    """Deadlines are looked at after the refused were taken out."""
    world = World(20, {"a": 15})
    fits, refused = world.add(4, 3), world.add(10, 11, "a")
    world.step()
    world.threads.run()

    def fail(*args):
        raise ValueError("no such time")

    world.scheduler._deadlines.hopeless = fail
    with pytest.raises(ValueError, match="no such time"):
        world.step()
    for sequence in (fits, refused):
        world.scheduler.remove(sequence)
    world.audit([])
    assert refused.adapter.requests == 0
