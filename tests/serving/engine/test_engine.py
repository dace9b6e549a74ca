"""A request's life in the engine: answers, limits, refusals, cancels, the end."""

import time
from dataclasses import replace

import numba
import pytest
import torch
from engine_case import Collector, ask, check_idle, refusal, start

from gossamer.errors import (
    AdapterError,
    AdapterNotFoundError,
    CapacityError,
    OverloadedError,
    RequestError,
    SettingError,
    UnknownModelError,
    UnsupportedAdapterError,
)
from gossamer.serving.core.messages import Failed, Finished, Request, SamplingParams

from tiny import make_lora, make_tiny_model


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    make_lora(folder / "a", tiny_model, rank=4, seed=1)
    make_lora(folder / "b", tiny_model, rank=8, seed=2, targets=("q_proj", "v_proj"))
    make_lora(folder / "vera", tiny_model, rank=4, peft_type="VERA")
    make_lora(folder / "r64", tiny_model, rank=64, seed=3)
    torn = make_lora(folder / "torn", tiny_model, rank=4)
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


@pytest.fixture(scope="module")
def shared(tiny_model, adapters):
    """One engine for the tests that do not stop or disturb it."""
    engine = start(tiny_model, adapters)
    yield engine
    check_idle(engine)
    engine.shutdown()


@pytest.fixture
def make_engine(tiny_model, adapters):
    engines = []

    def make(**settings):
        engines.append(start(tiny_model, settings.pop("adapters", adapters), **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()


# Answers.


def test_events_of_an_answer(shared):
    one = ask(shared, (5, 6, 7), "a", max_tokens=8, logprobs=2)
    assert one.wait() == Finished(
        request_id=one.id, finish_reason="length", prompt_tokens=3, completion_tokens=8
    )
    assert len(one.tokens) == 8
    assert one.events[-1] is one.finals[0]
    assert all(len(event.logprobs) == 1 for event in one.events[:-1])
    assert len(one.events[0].logprobs[0].top) == 2
    assert one.text == shared.tokenizer.decode(one.tokens)


def first_answer(engine, count=12):
    one = ask(engine, max_tokens=count)
    one.wait()
    return one


def test_end_of_text_ends_the_answer_and_shows_nothing(make_engine):
    engine = make_engine()
    tokens = first_answer(engine).tokens
    eos = next(t for t in tokens if t > 2)
    engine.model = replace(engine.model, eos_token_ids=frozenset({eos}))
    stopped = ask(engine, max_tokens=12, ignore_eos=False)
    assert stopped.wait().finish_reason == "stop"
    assert stopped.tokens == tokens[: tokens.index(eos) + 1]
    assert stopped.text == engine.tokenizer.decode(tokens[: tokens.index(eos)])
    assert stopped.wait().completion_tokens == len(stopped.tokens)
    ignoring = ask(engine, max_tokens=12, ignore_eos=True)
    ignoring.wait()
    assert ignoring.tokens == tokens


def test_min_tokens_keeps_end_of_text_away(make_engine):
    engine = make_engine()
    engine.model = replace(engine.model, eos_token_ids=frozenset(range(3, 200)))
    one = ask(engine, max_tokens=9, min_tokens=6, ignore_eos=False)
    assert one.wait().completion_tokens >= 7
    assert not set(one.tokens[:6]) & engine.model.eos_token_ids


def test_a_stop_text_ends_the_answer_before_it(shared):
    whole = first_answer(shared, 30).text
    stop = whole[10:12]
    one = ask(shared, max_tokens=30, stop=(stop,))
    assert one.wait().finish_reason == "stop"
    assert one.text == whole[: whole.index(stop)]


def test_a_stop_met_by_the_last_token_counts_as_a_stop(shared):
    whole = first_answer(shared, 30)
    texts = [event.text for event in whole.events[:-1]]
    # The first token after some that shows a character not shown before.
    at = next(i for i in range(3, 30) if texts[i] and texts[i] not in "".join(texts[:i]))
    one = ask(shared, max_tokens=at + 1, stop=(texts[at],))
    assert one.wait().finish_reason == "stop"
    assert one.text == "".join(texts[:at])
    assert len(one.tokens) == at + 1


@pytest.mark.parametrize("adapter", [None, "a"])
def test_an_answer_fills_the_context_and_no_more(make_engine, adapter):
    engine = make_engine(max_context=40)
    for prompt, count in ((5, 35), (39, 1), (38, 2)):
        one = ask(engine, range(3, 3 + prompt), adapter, max_tokens=None)
        assert one.wait().finish_reason == "length"
        assert len(one.tokens) == count
    one = ask(engine, range(3, 13), adapter, max_tokens=30)
    one.wait()
    assert len(one.tokens) == 30


def test_without_a_limit_the_pool_is_the_limit(make_engine):
    engine = make_engine(num_blocks=10)
    one = ask(engine, max_tokens=None)
    assert one.wait().completion_tokens == 160 - 3
    # Beside an adapter of some blocks less is left.
    two = ask(engine, adapter="b", max_tokens=None)
    two.wait()
    held = engine.stats().blocks_adapters
    assert held > 0
    assert len(two.tokens) == (10 - held) * 16 - 3


# Refusals.


def test_requests_beyond_the_limits_are_refused(make_engine):
    engine = make_engine(max_context=40, num_blocks=2)
    assert type(refusal(engine, ())) is RequestError
    assert type(refusal(engine, (3, 259))) is RequestError
    assert type(refusal(engine, (-1,))) is RequestError
    assert type(refusal(engine, [3] * 40)) is RequestError
    assert type(refusal(engine, [3] * 30, max_tokens=11)) is RequestError
    assert type(refusal(engine, [3] * 30, max_tokens=3)) is CapacityError
    assert refusal(engine, temperature=float("nan")).param == "temperature"
    assert refusal(engine, stop=("",)).param == "stop"
    assert ask(engine, [3] * 30, max_tokens=2).wait().finish_reason == "length"
    check_idle(engine)


@pytest.mark.parametrize("name", ["../a", "", ".", "/", "A", "a\x00"])
def test_names_of_no_adapter(shared, name):
    assert type(refusal(shared, adapter=name)) is UnknownModelError


def test_adapters_that_cannot_be_served(make_engine):
    engine = make_engine(num_blocks=30)
    for name, kind, words in (
        ("vera", UnsupportedAdapterError, "VERA"),
        ("torn", AdapterError, "torn"),
        ("r64", CapacityError, "--memory"),
    ):
        late = ask(engine, adapter=name).wait()
        assert isinstance(late, Failed)
        assert isinstance(late.error, kind)
        assert words in str(late.error)
        assert isinstance(refusal(engine, adapter=name), kind)
    states = {status.name: status.state for status in engine.adapters()}
    assert states["vera"] == states["torn"] == states["r64"] == "refused"
    assert ask(engine, adapter="a").wait().finish_reason == "length"
    check_idle(engine)


def test_too_many_waiting_requests_are_refused_with_a_hint(make_engine):
    engine = make_engine(max_running=1, max_waiting=3)
    accepted = [ask(engine, max_tokens=300)]
    while engine.stats().num_running == 0:
        time.sleep(0.01)
    accepted += [ask(engine, max_tokens=2) for _ in range(3)]
    error = refusal(engine)
    assert type(error) is OverloadedError
    assert error.retry_after >= 1
    assert "3 requests are waiting" in str(error)
    engine.cancel(accepted[0].id)
    for one in accepted[1:]:
        one.wait()
    assert ask(engine).wait().finish_reason == "length"


def test_an_id_in_use_is_refused_and_free_again_afterwards(shared):
    one = ask(shared, max_tokens=200)
    again = Collector()
    request = short_request(one.id)
    with pytest.raises(RequestError, match="in use"):
        shared.submit(request, again)
    shared.cancel(one.id)
    one.wait()
    shared.submit(request, again)
    again.wait()
    assert len(one.finals) == len(again.finals) == 1


def short_request(request_id):
    return Request(
        request_id=request_id,
        prompt_token_ids=(5, 6),
        sampling=SamplingParams(max_tokens=3, temperature=0),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "foo"}, "device 'foo' does not exist"),
        ({"dtype": "bfloat16", "backend": "cpu"}, "use dtype=float32"),
        ({"max_context": 513}, "exceeds the 512 positions"),
        ({"num_blocks": 1}, "less than two blocks"),
        ({"num_blocks": 10**9}, "are free"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(tiny_model, settings, message):
    with pytest.raises(SettingError, match=message):
        start(tiny_model, **settings)


def test_a_missing_adapter_folder(tiny_model, tmp_path):
    with pytest.raises(AdapterNotFoundError, match="does not exist"):
        start(tiny_model, tmp_path / "none")


def test_the_widest_row_bounds_the_size_of_blocks_but_not_the_output_layer(tiny_model, tmp_path):
    """Small models have far more tokens than any row of an adapter is wide."""
    # 768 bytes a token; the widest row has 100 numbers and the output layer 259 rows.
    engine = start(tiny_model, block_tokens=1)
    assert ask(engine).wait().finish_reason == "length"
    engine.shutdown()
    wide = make_tiny_model(tmp_path / "wide", intermediate_size=300)
    with pytest.raises(SettingError, match=r"widest adapter row \(1200 bytes\); use at least 2"):
        start(wide, block_tokens=1)
    start(wide, block_tokens=2).shutdown()


def test_kernels_use_no_more_threads_than_asked_for(make_engine):
    engine = make_engine(threads=1)
    run, found = engine.runner.model.run, []

    def spy(batch):
        logits = run(batch)
        found.append((numba.get_num_threads(), torch.get_num_threads()))
        return logits

    engine.runner.model.run = spy
    ask(engine, adapter="a").wait()
    assert set(found) == {(1, 1)}


def test_the_adapters_of_running_and_waiting_requests_are_told(make_engine):
    engine = make_engine(max_running=1)
    accepted = [ask(engine, adapter="a", max_tokens=300)]
    while engine.stats().num_running == 0:
        time.sleep(0.01)
    accepted.append(ask(engine, adapter="b", max_tokens=2))
    accepted.append(ask(engine, max_tokens=2))
    stats = engine.stats()
    assert (stats.running_adapters, stats.waiting_adapters) == ({"a"}, {"b"})
    assert stats.max_running == 1
    engine.cancel(accepted[0].id)
    for one in accepted:
        one.wait()
    assert engine.stats().running_adapters == engine.stats().waiting_adapters == frozenset()
