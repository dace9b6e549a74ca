"""Cancels, faults, floods and the end: exactly one final event each, and the engine lives on."""

import random
import threading
import time

import pytest
from engine_case import (
    ask,
    ask_tokens,
    check_idle,
    hold_reading,
    refusal,
    slow_down,
    standing_still,
)

from gossamer.adapters.reading.safetensors_file import OpenSafetensors
from gossamer.errors import (
    AdapterFormatError,
    EngineStoppedError,
    GossamerError,
    OverloadedError,
    ServingError,
)
from gossamer.serving.core.messages import Failed, Finished, Request, SamplingParams, Tokens
from gossamer.serving.engine.output import Generation, RequestOutput

from tiny import make_lora

SHORT = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)


# Cancels.


def test_cancelled_wherever_they_are(make_engine):
    engine = make_engine(max_running=2)
    slow_down(engine)
    running = [ask(engine, max_tokens=500), ask(engine, adapter="r4", max_tokens=500)]
    while not running[1].events:
        time.sleep(0.001)
    waiting = ask(engine, max_tokens=500)
    for one in (waiting, *running):
        engine.cancel(one.id)
        assert one.wait() == Finished(
            request_id=one.id,
            finish_reason="cancelled",
            prompt_tokens=3,
            completion_tokens=len(one.tokens),
        )
        engine.cancel(one.id)
    engine.cancel("never heard of")
    check_idle(engine)
    assert engine.stats().finished["cancelled"] == 3


def test_a_late_cancel_hits_no_later_request_of_the_same_id(make_engine):
    """The engine gets to a cancel when the request has ended and its id is in use again."""
    engine = make_engine()
    held = threading.Event()
    inside = threading.Event()
    told = []

    def on_last_token(event):
        if isinstance(event, Tokens):
            told.append(event)
            if len(told) == SHORT.max_tokens:
                # A moment before the end.
                engine.cancel("same")
        elif isinstance(event, Finished):
            inside.set()
            assert held.wait(10)

    first = Request(request_id="same", prompt_token_ids=(4,), sampling=SHORT)
    engine.submit(first, on_last_token)
    assert inside.wait(10)
    events = []
    engine.submit(first, events.append)
    held.set()
    assert ask(engine).wait().finish_reason == "length"
    assert [event.finish_reason for event in events if isinstance(event, Finished)] == ["length"]
    check_idle(engine)


# Faults.


def test_a_step_that_fails_ends_the_requests_of_that_step_only(make_engine):
    engine = make_engine(max_running=2)
    run, calls = engine.runner.model.run, []

    def fail_once(batch):
        calls.append(batch)
        if len(calls) == 5:
            raise MemoryError("pretended")
        return run(batch)

    engine.runner.model.run = fail_once
    with standing_still(engine):
        hit = [ask(engine, max_tokens=300) for _ in range(2)]
        waiting = ask(engine, max_tokens=4)
    for one in hit:
        assert type(one.wait().error) is ServingError
        assert len(one.tokens) == 4
    assert waiting.wait().finish_reason == "length"
    check_idle(engine)


@pytest.mark.parametrize(
    ("owner", "method"), [(Generation, "accept"), (RequestOutput, "tokens")], ids=str
)
def test_a_token_that_cannot_be_told_ends_its_request_only(make_engine, monkeypatch, owner, method):
    engine = make_engine()
    slow_down(engine)
    one, other = ask(engine, max_tokens=300), ask(engine, (9, 8), max_tokens=30)
    while not (one.events and other.events):
        time.sleep(0.005)

    take = getattr(owner, method)

    def fail(taker, choice, **named):
        if taker.sequence.request.request_id == one.id:
            raise ValueError("pretended")
        return take(taker, choice, **named)

    monkeypatch.setattr(owner, method, fail)
    assert isinstance(one.wait(), Failed)
    assert other.wait().finish_reason == "length"
    assert len(one.finals) == 1
    check_idle(engine)
    assert engine.stats().finished["failed"] == 1


def test_a_last_token_that_cannot_be_told_fails_its_request(make_engine, monkeypatch):
    """The engine has let the request go by then."""
    engine = make_engine()

    def fail(output, choice, **named):
        raise ValueError("pretended")

    tokens = RequestOutput.tokens
    monkeypatch.setattr(RequestOutput, "tokens", fail)
    one = ask(engine, max_tokens=1)
    assert isinstance(one.wait(), Failed)
    monkeypatch.setattr(RequestOutput, "tokens", tokens)
    assert ask(engine).wait().finish_reason == "length"
    assert len(one.events) == 1
    check_idle(engine)


def test_a_plan_that_fails_ends_what_there_is_and_the_engine_lives_on(make_engine):
    engine = make_engine()
    plan, calls = engine.scheduler.plan, []

    def fail_once():
        calls.append(None)
        if len(calls) == 4:
            raise RuntimeError("pretended")
        return plan()

    engine.scheduler.plan = fail_once
    assert isinstance(ask(engine, max_tokens=300).wait(), Failed)
    assert ask(engine).wait().finish_reason == "length"
    check_idle(engine)


def test_an_engine_that_dies_says_so_to_everyone(make_engine):
    engine = make_engine()

    def die(batch):
        raise SystemExit

    engine.runner.model.run = die
    one = ask(engine, max_tokens=300)
    final = one.wait()
    assert isinstance(final, Failed)
    assert isinstance(final.error, EngineStoppedError)
    engine.join(10)
    assert not engine.healthy()
    assert isinstance(refusal(engine), EngineStoppedError)


def test_receivers_that_fail_disturb_nobody(make_engine):
    engine = make_engine()
    bad = [ask(engine, raises=ValueError) for _ in range(3)]
    good = ask(engine)
    for one in (*bad, good):
        assert one.wait().finish_reason == "length"
        assert len(one.finals) == 1
    assert bad[0].tokens == good.tokens
    check_idle(engine)


def test_weights_so_large_that_nothing_finite_comes_out(make_engine, tiny_model, tmp_path):
    make_lora(tmp_path / "vast", tiny_model, rank=4, size=1e30)
    engine = make_engine(tmp_path)
    other = ask(engine, max_tokens=20)
    final = ask(engine, adapter="vast").wait()
    assert isinstance(final, Failed)
    assert "not a finite number" in str(final.error)
    # The adapter's fault, not the server's.
    assert isinstance(final.error, AdapterFormatError)
    assert "vast" in str(final.error)
    assert other.wait().finish_reason == "length"
    # Nothing of it stays in the blocks that others get.
    assert ask(engine, max_tokens=20).wait().finish_reason == "length"
    check_idle(engine)


def test_an_adapter_that_asks_for_too_much_is_refused_before_it_is_read(
    make_engine, tiny_model, tmp_path, monkeypatch
):
    make_lora(tmp_path / "wide", tiny_model, rank=4)
    make_lora(tmp_path / "high", tiny_model, rank=300)
    make_lora(tmp_path / "small", tiny_model, rank=4, targets=("q_proj",))
    engine = make_engine(tmp_path, adapter_limits={"max_tensors": 30}, num_blocks=40)
    read, sizes = OpenSafetensors.read, []
    monkeypatch.setattr(
        OpenSafetensors, "read", lambda file: sizes.append(file.header.numel) or read(file)
    )
    final = ask(engine, adapter="wide").wait()
    assert "42 tensors, more than the 30 of max_tensors" in str(final.error)
    assert ask(engine, adapter="small", max_tokens=2).wait().finish_reason == "length"
    assert len(sizes) == 1
    check_idle(engine)
    other = make_engine(tmp_path, num_blocks=40)
    final = ask(other, adapter="high").wait()
    assert "bytes at least and the pool has 491,520; serve with more --mem" in str(final.error)
    assert len(sizes) == 1


def test_a_receiver_may_call_the_engine_back(make_engine):
    engine = make_engine()
    found = []

    def on_event(event):
        if isinstance(event, Finished) and not found:
            found.append(ask(engine))
            engine.cancel("nobody")
            found.append(engine.stats())

    engine.submit(Request(request_id="calls-back", prompt_token_ids=(4,), sampling=SHORT), on_event)
    while len(found) < 2:
        time.sleep(0.005)
    assert found[0].wait().finish_reason == "length"


# Adapters that come, change and go while the engine runs.


def test_a_slow_disk_stalls_only_who_waits_for_it(make_engine, monkeypatch):
    engine = make_engine()
    gate = hold_reading(monkeypatch)
    late = ask(engine, adapter="r4")
    for _ in range(5):
        assert ask(engine).wait().finish_reason == "length"
    assert not late.events
    gate.set()
    assert late.wait().finish_reason == "length"


def test_an_idle_engine_does_not_spin(make_engine, monkeypatch):
    """Neither with nothing to do nor while all that wait are waiting for the disk."""
    engine = make_engine()
    gate = hold_reading(monkeypatch)
    turns, turn = [], engine.loop.step
    engine.loop.step = lambda: turns.append(None) or turn()
    ask(engine, max_tokens=1).wait()
    late = ask(engine, adapter="r4")
    time.sleep(0.3)
    before = len(turns)
    time.sleep(0.3)
    assert len(turns) == before < 20
    gate.set()
    late.wait()


# The end.


def test_shutdown_lets_running_requests_end(make_engine):
    engine = make_engine()
    one = ask(engine, max_tokens=60)
    engine.shutdown(drain_seconds=60)
    assert one.wait(0).finish_reason == "length"
    assert not engine.healthy()
    assert isinstance(refusal(engine), EngineStoppedError)
    engine.cancel(one.id)
    engine.shutdown()


def test_shutdown_cancels_what_takes_too_long(make_engine):
    engine = make_engine(max_running=2)
    several = [ask(engine, adapter=name, max_tokens=500) for name in (None, "r4", "r8", None)]
    start_time = time.monotonic()
    engine.shutdown(drain_seconds=0.05)
    assert time.monotonic() - start_time < 10
    assert [len(one.finals) for one in several] == [1] * 4
    assert {one.finals[0].finish_reason for one in several} <= {"cancelled", "length"}
    stats = engine.stats()
    held = stats.blocks_adapters + stats.blocks_cached
    assert stats.blocks_free + held == stats.blocks_total


def test_submissions_during_shutdown_are_refused_or_answered(make_engine):
    engine = make_engine()
    accepted, refused = [], []

    def submit():
        while not refused:
            try:
                accepted.append(ask(engine, max_tokens=2))
            except EngineStoppedError as error:
                refused.append(error)
            except OverloadedError:
                time.sleep(0.01)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    engine.shutdown()
    for thread in threads:
        thread.join(10)
    assert accepted
    assert [len(one.finals) for one in accepted] == [1] * len(accepted)


# A flood.


def test_a_thousand_random_requests(make_engine):
    """Each has exactly one end, nothing is left behind, and the engine still answers right."""
    rng = random.Random(0)
    engine = make_engine(
        num_blocks=80, max_context=200, max_batch_tokens=64, max_running=24, max_waiting=60,
        expected_new_tokens=4,
    )  # fmt: skip
    before = ask_tokens(engine, "r8", max_tokens=20)
    names = [None, None, "r1", "r4", "r8", "r16", "r64", "qv", "dora", "torn", "no such", "../r4"]
    accepted, refused, open_ones = [], [], []
    for _ in range(1000):
        prompt = [rng.randint(3, 262) for _ in range(rng.choice((0, 1, 5, 5, 20, 20, 60, 60, 250)))]
        if rng.random() < 0.8:
            prompt = [min(token, 258) for token in prompt]
        options = {
            "max_tokens": rng.choice((1, 2, 5, 12, 12, 12, 12, 12, 30, 300, 0)),
            "temperature": rng.choice((0, 0, 0, 1.0, 1.0, 1.5, 1e-300, float("nan"))),
            "top_p": rng.choice((1.0, 1.0, 1.0, 0.9, 0.9, 1e-300, 0.0)),
            "top_k": rng.choice((0, 1, 40, 10**9)),
            "seed": rng.choice((None, 1)),
            "stop": rng.choice(((), (), ("a",), ("a", "bc"), ("",))),
            "logprobs": rng.choice((None, None, 0, 20)),
            "ignore_eos": rng.random() < 0.5,
            "raises": rng.choice((None, None, None, KeyError)),
        }
        try:
            one = ask(engine, prompt, rng.choice(names), **options)
        except GossamerError as error:
            refused.append(error)
            continue
        accepted.append(one)
        open_ones.append(one)
        if rng.random() < 0.2:
            engine.cancel(rng.choice(open_ones).id)
        if rng.random() < 0.1:
            time.sleep(rng.random() * 0.02)
        while engine.stats().num_waiting >= 55:
            time.sleep(0.01)
    finals = [one.wait() for one in accepted]
    check_idle(engine)
    assert len(accepted) + len(refused) == 1000
    assert len(accepted) > 200
    assert len(refused) > 200
    assert [len(one.finals) for one in accepted] == [1] * len(accepted)
    assert all(one.events[-1] is one.finals[0] for one in accepted)
    kinds = {getattr(final, "finish_reason", "failed") for final in finals}
    assert kinds == {"stop", "length", "cancelled", "failed"}
    assert engine.stats().adapter_evictions > 0
    wrong = [f for f in finals if isinstance(f, Failed) and type(f.error) is ServingError]
    assert not wrong
    engine.scheduler.memory.reclaim(80)
    assert engine.scheduler.memory.num_free == 80
    assert ask_tokens(engine, "r8", max_tokens=20) == before
