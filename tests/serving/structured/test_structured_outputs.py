"""Answers that have a form, in one batch with others: by adapters, beside other fields."""

import json
import re
import string

import jsonschema
import pytest
from engine_case import ask, check_idle, refusal, start

from gossamer.errors import RequestError
from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.structured.matcher import GrammarMatcher

from tiny import make_lora

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["cat", "dog"]},
        "ages": {"type": "array", "items": {"enum": [1, 22]}, "maxItems": 2},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
OBJECT = StructuredOutputs(json=SCHEMA)
DATE = StructuredOutputs(regex=r"20\d\d-[01]\d")
FREE = {"temperature": 1.0, "ignore_eos": False, "max_tokens": 450}


@pytest.fixture(scope="module")
def engine(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("a", "b")):
        make_lora(folder / name, tiny_model, rank=4, seed=seed)
    engine = start(tiny_model, folder)
    yield engine
    engine.shutdown()


def test_answers_keep_to_their_forms_and_neighbours_do_not_notice(engine):
    others = [
        {"adapter": adapter, "temperature": 1.0, "seed": 7, "max_tokens": 40, **fields}
        for adapter, fields in ((None, {}), ("a", {"top_p": 0.9}), ("b", {"presence_penalty": 1}))
    ]
    alone = [one.tokens for one in [ask(engine, **other) for other in others] if one.wait()]
    formed = [
        ask(engine, adapter=adapter, structured_outputs=form, seed=seed, **FREE)
        for adapter in (None, "a", "b")
        for seed, form in enumerate((OBJECT, OBJECT, DATE))
    ]
    beside = [ask(engine, **other) for other in others]
    for one in formed:
        assert one.wait().finish_reason == "stop"
    assert [one.tokens for one in beside if one.wait()] == alone
    for number, one in enumerate(formed):
        if number % 3 == 2:
            assert re.fullmatch(DATE.regex, one.text)
        else:
            jsonschema.validate(json.loads(one.text), SCHEMA)
    assert len({one.text for one in formed}) > 5
    check_idle(engine)


def test_the_same_seed_gives_the_same_answer_whatever_is_beside_it(engine):
    asked = {"structured_outputs": OBJECT, "seed": 11, "logprobs": 2, **FREE}
    alone = ask(engine, **asked)
    alone.wait()
    several = [ask(engine, **asked), ask(engine, max_tokens=60), ask(engine, **asked)]
    for one in several:
        one.wait()
    assert several[0].text == several[2].text == alone.text
    assert all(event.logprobs for event in alone.events[:-1])


def test_a_form_ends_where_nothing_can_follow_whatever_other_fields_say(engine):
    form = StructuredOutputs(regex="[ab]{3}")
    for fields in ({}, {"min_tokens": 50}, {"ignore_eos": True, "min_tokens": 5}):
        one = ask(engine, structured_outputs=form, **{**FREE, **fields})
        assert one.wait().finish_reason == "stop"
        assert re.fullmatch("[ab]{3}", one.text)
    open_end = StructuredOutputs(regex="[ab]+")
    one = ask(engine, structured_outputs=open_end, **{**FREE, "min_tokens": 20})
    one.wait()
    assert len(one.text) >= 20
    one = ask(engine, structured_outputs=open_end, **{**FREE, "ignore_eos": True, "max_tokens": 30})
    assert one.wait().finish_reason == "length"
    assert re.fullmatch("[ab]{30}", one.text)


def test_other_fields_choose_among_what_the_form_leaves(engine):
    letters = StructuredOutputs(regex="[a-z]{30}")

    def answer(**fields):
        one = ask(engine, structured_outputs=letters, **{**FREE, **fields})
        return one, one.wait()

    (x,) = engine.tokenizer.encode("x")
    one, _ = answer(logit_bias={x: 100.0})
    assert one.text == "x" * 30
    one, _ = answer(bad_words=tuple(string.ascii_lowercase[:-1]))
    assert one.text == "z" * 30
    one, end = answer(logit_bias={x: 100.0}, stop=("xxx",))
    assert (one.text, end.finish_reason) == ("", "stop")
    one, end = answer(logit_bias={x: 100.0}, stop_token_ids=(x,))
    assert (one.text, end.finish_reason) == ("", "stop")
    _, end = answer(bad_words=tuple(string.ascii_lowercase))
    assert isinstance(end.error, RequestError)
    assert "bad_words" in str(end.error)
    one, end = answer(max_tokens=7)
    assert (len(one.text), end.finish_reason) == (7, "length")
    one, _ = answer(repetition_penalty=1.5, frequency_penalty=1.0, min_p=0.01, top_k=5)
    assert re.fullmatch("[a-z]{30}", one.text)
    check_idle(engine)


def test_what_cannot_be_kept_to_is_refused_when_it_comes(engine):
    form = StructuredOutputs(json={"items": {"uniqueItems": True}}, asked_as="response_format")
    error = refusal(engine, structured_outputs=form)
    assert error.param == "response_format"
    assert "#/items" in str(error)
    check_idle(engine)


def test_a_form_that_becomes_too_complex_ends_its_own_request_alone(engine, monkeypatch):
    take, count = GrammarMatcher.take, 0

    def taken(self, token):
        nonlocal count
        count += 1
        if count == 5:
            self._matcher.consume_token(engine.tokenizer.eos_token_id)
        return take(self, token)

    monkeypatch.setattr(GrammarMatcher, "take", taken)
    one = ask(engine, structured_outputs=StructuredOutputs(regex="[a-z]{20}"), **FREE)
    other = ask(engine, max_tokens=20)
    assert "any further" in str(one.wait().error)
    assert other.wait().finish_reason == "length"
    check_idle(engine)


def test_sequences_that_are_put_back_go_on_where_they_were(tiny_model):
    engine = start(tiny_model, num_blocks=8, expected_new_tokens=1)
    form = StructuredOutputs(regex="([a-f][0-9]){24}")
    asked = {"structured_outputs": form, "max_tokens": 60, "temperature": 1.0}
    alone = ask(engine, seed=0, **asked)
    alone.wait()
    several = [ask(engine, seed=seed, **asked) for seed in range(4)]
    engine.cancel(several[3].id)
    for one in several[:3]:
        assert one.wait().finish_reason == "stop"
        assert re.fullmatch(form.regex, one.text)
    assert several[3].wait().finish_reason in ("cancelled", "stop")
    assert several[0].text == alone.text
    assert engine.scheduler.num_preemptions > 0
    check_idle(engine)
    engine.shutdown()


def test_steps_that_overlap_give_the_same_answers(engine, tiny_model):
    asked = [
        {"structured_outputs": OBJECT, "seed": 3, **FREE},
        {"seed": 4, "temperature": 1.0, "max_tokens": 30},
        {"structured_outputs": DATE, "seed": 5, **FREE},
    ]
    want = [one.text for one in [ask(engine, **each) for each in asked] if one.wait()]
    late = start(tiny_model, overlap_steps=True)
    assert [one.text for one in [ask(late, **each) for each in asked] if one.wait()] == want
    late.shutdown()
