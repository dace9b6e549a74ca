"""A step is planned while the one before runs: the same tokens, events and ends as without."""

import random

import pytest
from engine_case import ask, check_idle, standing_still
from late_device import BLOCK, LateDevice, LateEngine, expected

from gossamer.errors import CapacityError, ServingError
from gossamer.serving.core.messages import Failed, Finished
from gossamer.serving.core.sequence import UNKNOWN

SIZES = {"a": 3, "b": 5, "c": 8, "d": 2, "e": 4, "p": 2}
PROMPTS = [tuple(n % 26 for n in range(start, start + 40)) for start in (0, 0, 3, 11)]


def random_engine(rng, device):
    engine = LateEngine(
        device,
        rng.choice([26, 36, 60]),
        SIZES,
        max_running=rng.choice([1, 4, 8]),
        max_batch_tokens=rng.choice([3, 8, 24, 64]),
        expected_new_tokens=rng.choice([1, 8, 64]),
        prefetch=rng.choice([0, 4]),
        store={
            "host_bytes": rng.choice([0, 2, 100]),
            **rng.choice([{}, {"copies": "manual"}]),
        },
        prefixes={"enabled": rng.random() < 0.7},
    )
    # The model computes it, in steps beside the others.
    engine.world.loader.virtual["p"] = 5
    return engine


def random_request(rng, engine):
    prompt = rng.choice(PROMPTS)[: rng.choice([1, 3, 8, 17, 40])]
    name = rng.choice([None, None, "a", "b", "c", "d", "e", "p", "p", "a:0.5+b:0.5"])
    min_tokens = rng.choice([0, 0, 3])
    return engine.add(
        prompt,
        name,
        max_tokens=rng.choice([1, 1, 2, 5, 12, 20, 40]),
        temperature=rng.choice([0, 1]),
        seed=rng.randrange(1000),
        ignore_eos=rng.random() < 0.3,
        min_tokens=min_tokens,
        presence_penalty=rng.choice([0, 0, 0, 0, 1]) if rng.random() < 0.3 else 0,
        stop=() if min_tokens else rng.choice([(), (), ("a",), ("bc", "q")]),
    )


def play(seed, device, operations):
    """Random traffic to its end, with a recount after each step; returns the engine and those who
    were cancelled."""
    rng = random.Random(seed)
    engine = random_engine(rng, device)
    world, cancelled = engine.world, set()
    for _ in range(operations):
        kind = rng.choices(["add", "read", "copy", "cancel"], [10, 6, 6, 2])[0]
        if kind == "add":
            random_request(rng, engine)
        elif kind == "read":
            world.threads.run(1)
        elif kind == "copy":
            world.copies.run(1)
        elif kind == "cancel" and engine.collected:
            one = rng.choice(engine.collected)
            if not one.finals:
                cancelled.add(one)
                engine.loop.cancel(one.sequence)
        for _ in range(rng.choice([0, 1, 1, 2])):
            engine.step()
            world.audit([])
    engine.run()
    world.audit([])
    return engine, cancelled


def needs(sequence):
    """Places of the pool that a request takes with its adapter."""
    blocks = sequence.adapter.num_blocks if sequence.adapter is not None else 0
    return BLOCK * blocks + sequence.num_prompt + sequence.max_new_tokens


def check(engine, cancelled):
    """Each request has its answer, told in order, with one end; nothing is left behind."""
    for one in engine.collected:
        assert len(one.finals) == 1
        assert one.events[-1] is one.finals[0]
        assert UNKNOWN not in one.tokens
        final = one.finals[0]
        if isinstance(final, Finished):
            assert final.completion_tokens == len(one.tokens)
            assert final.prompt_tokens == len(one.sequence.request.prompt_token_ids)
        if one in cancelled:
            assert one.tokens == expected(one)[0][: len(one.tokens)]
            continue
        if isinstance(final, Failed) and isinstance(final.error, CapacityError):
            assert not one.tokens
            assert needs(one.sequence) > BLOCK * engine.world.pool.num_blocks
            continue
        tokens, text, reason = expected(one)
        assert one.tokens == tokens
        if reason == "failed":
            assert "finite" in str(final.error)
        else:
            assert final.finish_reason == reason
            assert one.text == text
    scheduler = engine.world.scheduler
    assert not scheduler.waiting
    assert not scheduler.running
    assert not engine.loop.requests.seen()
    assert engine.world.memory.reclaim(engine.world.pool.num_blocks), "memory is lost"


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(100, 300), marks=pytest.mark.slow)])
def test_random_traffic_gets_the_answers_that_it_should(seeds, overlaps, caplog):
    steps = behind = unknown = preemptions = evictions = hits = 0
    for seed in seeds:
        device = LateDevice(overlaps=overlaps)
        engine, cancelled = play(seed, device, 150)
        check(engine, cancelled)
        steps += device.launched()
        behind += device.num_launched_behind
        unknown += device.num_unknown
        preemptions += engine.world.scheduler.num_preemptions
        evictions += engine.world.memory.num_evictions
        hits += engine.world.prefixes.num_hit_tokens
    assert not caplog.records, "something was caught that should not be"
    # Every kind of trouble was met.
    assert steps > 100 * len(seeds)
    assert preemptions > 0
    assert evictions > len(seeds)
    assert hits > 10 * len(seeds)
    if overlaps:
        assert behind > 0.5 * steps
        assert unknown > 0.5 * steps
    else:
        assert behind == unknown == 0


def test_a_copy_that_does_not_wait_for_the_step_in_flight_is_noticed():
    """The device of these tests is as late as a real one may be."""

    def live(seeds):
        for seed in seeds:
            check(*play(seed, LateDevice(overlaps=True, fences=False), 150))

    with pytest.raises(AssertionError):
        live(range(12))


@pytest.mark.parametrize("overlaps", [False, True])
def test_steps_that_fail_end_their_own_requests_and_nothing_else_is_lost(overlaps):
    failed = 0
    for seed in range(6):
        rng = random.Random(seed)
        device = LateDevice(overlaps=overlaps, rng=rng, failures=0.02)
        engine, _ = play(seed, device, 150)
        for one in engine.collected:
            assert len(one.finals) == 1
            assert one.events[-1] is one.finals[0]
            assert one.tokens == expected(one)[0][: len(one.tokens)]
            final = one.finals[0]
            failed += isinstance(final, Failed) and type(final.error) is ServingError
        assert not engine.loop.requests.seen()
        assert not engine.world.scheduler.running
        assert engine.world.memory.reclaim(engine.world.pool.num_blocks), "memory is lost"
    assert failed > 20


def test_a_plan_that_fails_ends_all_and_the_engine_goes_on():
    engine = LateEngine(LateDevice(overlaps=True), 60, SIZES)
    first = [engine.add((1, 2, 3), max_tokens=30, temperature=0, ignore_eos=True) for _ in "ab"]
    for _ in range(4):
        engine.step()
    plan = engine.world.scheduler.plan
    engine.world.scheduler.plan = lambda: 1 / 0
    engine.step()
    engine.world.scheduler.plan = plan
    assert all(isinstance(one.finals[0], Failed) for one in first)
    later = engine.add((4, 5), max_tokens=9, temperature=0)
    engine.run()
    assert later.tokens == expected(later)[0]
    engine.world.audit([])


def test_what_is_told_with_overlap_is_a_step_late_and_not_more():
    engine = LateEngine(LateDevice(overlaps=True), 60, SIZES)
    one = engine.add((1, 2, 3), max_tokens=3, temperature=0, ignore_eos=True)
    told = []
    while not one.finals:
        engine.step()
        told.append(len(one.tokens))
    assert told == [0, 1, 2, 3]
    assert engine.device.launched() == 3, "no step is launched for one that has all its tokens"


def test_a_prefix_that_nobody_wants_any_more_is_given_up_while_it_is_computed(caplog):
    engine = LateEngine(LateDevice(overlaps=True), 60, SIZES)
    engine.world.loader.virtual["p"] = 5
    one = engine.add((1, 2), "p", max_tokens=3, temperature=0)
    engine.step()
    engine.world.threads.run()
    while not engine.device.launched():
        assert engine.step()
    engine.loop.cancel(one.sequence)
    engine.run()
    assert one.finals[0].finish_reason == "cancelled"
    assert not engine.world.memory.placing
    again = engine.add((1, 2), "p", max_tokens=3, temperature=0)
    engine.run()
    assert again.tokens == expected(again)[0]
    engine.world.audit([])
    assert not caplog.records


# On a real model.


def options(rng):
    return {
        "prompt": [rng.randint(3, 258) for _ in range(rng.choice((1, 5, 20, 60)))],
        "adapter": rng.choice((None, None, "r1", "r4", "r8", "r16", "qv", "dora")),
        "max_tokens": rng.choice((1, 2, 8, 20)),
        "temperature": rng.choice((0, 0.7, 1.5)),
        "top_p": rng.choice((1.0, 0.9)),
        "top_k": rng.choice((0, 40)),
        "seed": rng.randrange(100),
        "stop": rng.choice(((), (), ("a",), ("e", "bc"))),
        "logprobs": rng.choice((None, None, None, 2)),
        "ignore_eos": rng.random() < 0.5,
        "frequency_penalty": rng.choice((0, 0, 0, 0, 0, 0.5)),
        "min_tokens": rng.choice((0, 0, 1)),
    }


def test_a_model_gives_the_same_events_with_and_without(make_engine):
    rng = random.Random(5)
    requests = [options(rng) for _ in range(60)]
    answers = []
    for overlaps in (False, True):
        engine = make_engine(num_blocks=60, max_running=12, overlap_steps=overlaps)
        with standing_still(engine):
            asked = [ask(engine, **request) for request in requests]
        for one in asked:
            one.wait()
        answers.append(asked)
        check_idle(engine)
    for off, on in zip(*answers, strict=True):
        assert on.tokens == off.tokens
        assert on.text == off.text
        assert type(on.finals[0]) is type(off.finals[0])
        if isinstance(off.finals[0], Finished):
            assert on.finals[0].finish_reason == off.finals[0].finish_reason
            assert on.finals[0].completion_tokens == off.finals[0].completion_tokens
        assert [e.logprobs for e in on.events[:-1]] == [e.logprobs for e in off.events[:-1]]
