"""Blocks of prompts shared by those who begin alike, and by nobody else; without a tensor."""

from dataclasses import replace

import pytest
from policy_fakes import World

from gossamer.adapters.edit_positions import positions_independent_of_end, positions_to_edit

SHARED = {"enabled": True}
TEXT = tuple(range(100, 140))


def run(world, prompt, adapter=None, max_tokens=2, tenant="default"):
    """One request to its end; returns how many tokens of its prompt were not computed."""
    sequence = world.add(0, max_tokens, adapter, prompt=prompt, tenant=tenant)
    world.steps()
    assert sequence in world.done
    return sequence.num_cached


def test_a_prompt_that_begins_alike_is_computed_from_where_it_differs():
    world = World(50, prefixes=SHARED)
    assert run(world, TEXT) == 0
    assert run(world, (*TEXT[:20], 1, 2, 3)) == 20
    assert run(world, (*TEXT[:18], 1, 2, 3)) == 16, "whole blocks of 4 only"
    assert run(world, (1, *TEXT)) == 0, "the same tokens elsewhere are another prefix"
    assert run(world, TEXT[:3]) == 0


def test_the_last_token_of_a_prompt_is_always_computed():
    world = World(50, prefixes=SHARED)
    run(world, TEXT[:16])
    assert run(world, TEXT[:16]) == 12


def test_an_answer_is_a_prefix_of_the_next_turn():
    world = World(50, prefixes=SHARED)
    run(world, TEXT[:8], max_tokens=9)
    assert run(world, TEXT[:8] + (8,) * 8 + (1, 2)) == 16


def test_prompts_share_blocks_while_they_run():
    world = World(50, prefixes=SHARED)
    first = world.add(0, 30, prompt=TEXT)
    world.step()
    world.step()
    second = world.add(0, 30, prompt=(*TEXT[:36], 1, 2))
    world.step()
    assert second.blocks[:9] == first.blocks[:9]
    assert second.blocks[9:] != first.blocks[9:]
    world.scheduler.remove(first)
    world.audit([])
    assert world.prefixes.num_hits_in_use(second) == 9
    world.steps()
    assert world.done == [second]


def test_running_blocks_make_room_for_those_who_share_them():
    """Memory for two prompts of 10 blocks each is not there; for one and a bit it is."""
    world = World(16, prefixes=SHARED, expected_new_tokens=4)
    world.add(0, 8, prompt=TEXT)
    world.step()
    world.step()
    world.add(0, 4, prompt=(*TEXT[:36], 1, 2))
    world.step()
    assert len(world.scheduler.running) == 2
    world.steps()
    assert len(world.done) == 2
    assert world.scheduler.num_preemptions == 0


@pytest.mark.parametrize("adapter", [None, "a", "a:0.5+b:0.5"])
def test_a_tenant_finds_nothing_of_another(adapter):
    """Or a guess could be tried: what was found is told with each answer."""
    world = World(90, {"a": 5, "b": 5}, prefixes=SHARED)
    assert run(world, TEXT, adapter, tenant="alice") == 0
    assert run(world, TEXT, adapter, tenant="mallory") == 0
    assert run(world, TEXT, adapter, tenant="alice") == 36
    assert run(world, TEXT, adapter, tenant="mallory") == 36
    assert run(world, TEXT, adapter) == 0


def test_tenants_do_not_share_while_both_run():
    world = World(50, prefixes=SHARED)
    first = world.add(0, 30, prompt=TEXT, tenant="alice")
    world.step()
    world.step()
    second = world.add(0, 30, prompt=TEXT, tenant="mallory")
    assert world.prefixes.num_hits_in_use(second) == 0
    world.step()
    assert not set(first.blocks) & set(second.blocks)
    world.steps()


def test_tenants_may_be_let_share():
    world = World(50, prefixes={**SHARED, "between_tenants": True})
    assert run(world, TEXT, tenant="alice") == 0
    assert run(world, TEXT, tenant="bob") == 36


def test_an_evicted_adapter_gives_up_the_prefixes_of_every_tenant():
    world = World(40, {"a": 5}, prefixes=SHARED)
    for tenant in ("alice", "bob"):
        run(world, TEXT[:20], "a", tenant=tenant)
    (entry,) = world.memory.resident
    world.memory.evict(entry)
    assert world.prefixes.least_value(0.0) == 0.0, "they go before all others"
    world.prefixes.drop(entry.digest)
    assert world.prefixes.num_blocks == 0


def test_adapters_and_the_base_model_share_nothing():
    world = World(90, {"a": 5, "b": 5}, prefixes=SHARED)
    assert run(world, TEXT) == 0
    assert run(world, TEXT, "a") == 0
    assert run(world, TEXT, "b") == 0
    assert run(world, TEXT, "a:0.5+b:0.5") == 0
    assert run(world, TEXT, "a:0.5+b:0.25") == 0
    assert [run(world, TEXT, name) for name in (None, "a", "b", "a:0.5+b:0.5")] == [36] * 4


def test_a_reloaded_name_never_finds_keys_of_the_former_weights():
    world = World(60, {"a": 5}, prefixes=SHARED)
    run(world, TEXT, "a")
    assert run(world, TEXT, "a") == 36
    world.folder.versions["a"] += 1
    assert run(world, TEXT, "a") == 0
    assert run(world, TEXT, "a") == 36


def test_the_same_weights_under_another_name_are_the_same():
    """What counts is the digest."""
    world = World(60, {"a": 5, "b": 5}, prefixes=SHARED)
    load = world.loader.load
    world.loader.load = lambda entry: _with(load(entry), digest="same")
    run(world, TEXT, "a")
    assert run(world, TEXT, "b") == 36


def _with(loaded, **changes):
    return replace(loaded, facts=replace(loaded.facts, **changes))


def test_what_an_intervention_edits_at_the_end_of_a_prompt_is_not_shared():
    world = World(60, {"reft": 5}, prefixes=SHARED)
    load = world.loader.load
    world.loader.load = lambda entry: _with(load(entry), edited=(2, 3))
    assert run(world, TEXT[:24], "reft", max_tokens=9) == 0
    # Positions 21 to 23 were edited as the last ones: the block they are in is not shared, nor is
    # anything generated behind them.
    assert run(world, TEXT[:32], "reft") == 20
    assert run(world, TEXT[:24], "reft") == 20
    assert run(world, TEXT[:24] + (8,) * 8, "reft") == 24


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("last", range(6))
def test_edits_before_the_bound_are_those_of_every_longer_prompt(first, last):
    def edits(prompt):
        begin, end = positions_to_edit(prompt, first, last)
        return ["first"] * begin + [None] * (prompt - begin - end) + ["last"] * end

    for prompt in range(1, 16):
        bound = positions_independent_of_end(prompt, first, last)
        assert 0 <= bound <= prompt
        for longer in range(prompt, 24):
            shared = min(bound, positions_independent_of_end(longer, first, last))
            assert edits(prompt)[:shared] == edits(longer)[:shared]


def test_idle_blocks_are_used_before_anyone_is_put_back():
    world = World(20, prefixes=SHARED, expected_new_tokens=1)
    run(world, TEXT)
    assert world.prefixes.num_idle == 10
    world.add(0, 60, prompt=(1,) * 8)
    world.steps()
    assert world.scheduler.num_preemptions == 0
    assert world.prefixes.num_evictions > 0


def test_the_end_of_a_prompt_goes_before_its_begin():
    world = World(12, prefixes=SHARED)
    run(world, TEXT)
    world.memory.reclaim(6)
    assert run(world, TEXT) == 24


def test_prefixes_of_evicted_adapters_go_first():
    world = World(40, {"a": 5, "b": 5}, prefixes=SHARED)
    run(world, TEXT[:20], "b")
    run(world, TEXT[:20])
    (entry,) = world.memory.resident
    world.memory.evict(entry)
    assert run(world, TEXT[:20]) == 16
    free = world.pool.num_free
    world.memory.reclaim(free + 5)
    assert world.prefixes.num_idle == 5
    assert run(world, TEXT[:20]) == 16, "the base model's block, although older, stayed"


def test_a_preempted_request_finds_its_own_blocks():
    world = World(14, prefixes=SHARED, expected_new_tokens=1)
    for first in (1, 2):
        world.add(0, 24, prompt=(first,) * 8)
    world.steps()
    assert world.scheduler.num_preemptions > 0
    assert len(world.done) == 2
    assert all(sequence.num_cached == 0 for sequence in world.done), "only begins are counted"


def test_off_means_off():
    world = World(50, prefixes={"enabled": False})
    run(world, TEXT)
    assert run(world, TEXT) == 0
    assert world.pool.num_free == 50
    assert world.prefixes.num_queried_tokens == 0


def test_the_share_of_hits_is_counted():
    world = World(50, prefixes=SHARED)
    run(world, TEXT)
    run(world, TEXT)
    assert world.prefixes.num_queried_tokens == 80
    assert world.prefixes.num_hit_tokens == 36
