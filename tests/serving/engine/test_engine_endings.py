"""What ends an answer and what its text leaves out, on the whole engine."""

import pytest
from engine_case import ask, check_idle, refusal, start

from gossamer.serving.tokenization.bad_words import bad_words


@pytest.fixture(scope="module")
def shared(tiny_model, tmp_path_factory):
    engine = start(tiny_model, tmp_path_factory.mktemp("no-adapters"))
    yield engine
    check_idle(engine)
    engine.shutdown()


def generated(engine, count=12, **params):
    one = ask(engine, max_tokens=count, **params)
    one.wait()
    return one


def test_a_token_of_the_request_ends_the_answer(shared):
    tokens = generated(shared).tokens
    end = tokens[5]
    at = tokens.index(end)
    one = generated(shared, stop_token_ids=(end,))
    assert one.wait().finish_reason == "stop"
    assert one.tokens == tokens[: at + 1]
    assert one.text == shared.tokenizer.decode(tokens[:at])
    assert generated(shared, stop_token_ids=(end,), include_stop=True).text.startswith(one.text)
    late = generated(shared, stop_token_ids=(end,), min_tokens=at + 2)
    assert len(late.tokens) > at + 1


def test_the_stop_text_may_be_part_of_the_answer(shared):
    whole = generated(shared, 30).text
    stop = whole[10:12]
    end = whole.index(stop)
    assert generated(shared, 30, stop=(stop,)).text == whole[:end]
    assert generated(shared, 30, stop=(stop,), include_stop=True).text == whole[: end + len(stop)]


def test_special_tokens_are_shown_where_asked(shared):
    special = shared.tokenizer.all_special_ids[-1]
    bias = {special: 100.0}
    assert generated(shared, 2, logit_bias=bias).text == ""
    shown = generated(shared, 2, logit_bias=bias, skip_special_tokens=False).text
    assert shown == shared.tokenizer.decode([special, special])


def test_bad_words_are_not_generated(shared):
    whole = generated(shared, 20)
    run = whole.tokens[4:6]
    bad = shared.tokenizer.decode(run)
    assert shared.tokenizer.encode(bad, add_special_tokens=False) == run
    one = generated(shared, 20, bad_words=(bad,))
    assert len(one.tokens) == 20
    assert run not in [one.tokens[at : at + 2] for at in range(19)]


@pytest.mark.parametrize("word", ["\n", "\n\n", " ", " \t"])
def test_white_space_among_bad_words_forbids_no_other_white_space(shared, word):
    named = tuple(shared.tokenizer.encode(word, add_special_tokens=False))
    assert bad_words(shared.tokenizer, (word,)) == (named,)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"logit_bias": {99999: 1.0}}, "logit_bias names the token 99999; ids lie in 0.."),
        ({"stop_token_ids": (-1,)}, "stop_token_ids names the token -1"),
        ({"logit_bias": {5: float("nan")}}, "it must lie in -100..100"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be more than 0"),
        ({"bad_words": ("",)}, "texts of at least one character"),
    ],
)
def test_what_makes_no_sense_is_refused(shared, params, words):
    assert words in str(refusal(shared, max_tokens=2, **params))
