"""Requests that make no sense are refused with the field and the range."""

import math

import pytest

from gossamer.errors import CapacityError, RequestError
from gossamer.serving.core.messages import Request, SamplingParams
from gossamer.serving.core.validation import check_prompt, check_sampling, max_new_tokens

WRONG = [
    ({"temperature": -0.1}, "temperature", "at least 0"),
    ({"temperature": math.nan}, "temperature", "finite"),
    ({"temperature": math.inf}, "temperature", "finite"),
    ({"top_p": -0.1}, "top_p", "at least 0"),
    ({"top_p": 1.1}, "top_p", "at most 1"),
    ({"top_p": math.nan}, "top_p", "finite"),
    ({"top_k": -1}, "top_k", "at least 0"),
    ({"min_p": -0.5}, "min_p", "at least 0"),
    ({"min_p": 1.5}, "min_p", "at most 1"),
    ({"min_p": math.nan}, "min_p", "finite"),
    ({"presence_penalty": math.inf}, "presence_penalty", "finite"),
    ({"frequency_penalty": math.nan}, "frequency_penalty", "finite"),
    ({"max_tokens": -3}, "max_tokens", "at least 0"),
    ({"prompt_logprobs": -1}, "prompt_logprobs", "at least 0"),
    ({"min_tokens": -1}, "min_tokens", "at least 0"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "at most max_tokens=4"),
    ({"logprobs": -1}, "logprobs", "at least 0"),
    ({"stop": ("a", "")}, "stop", "at least one character"),
]


@pytest.mark.parametrize(("params", "field", "text"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_wrong_sampling_settings(params, field, text):
    with pytest.raises(RequestError, match=text) as caught:
        check_sampling(SamplingParams(**params))
    assert caught.value.param == field
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0, "top_p": 1e-9, "min_p": 1, "top_k": 10**9, "logprobs": 0},
        {"min_tokens": 4, "max_tokens": 4, "stop": ("x",), "presence_penalty": -2.0},
        {"min_tokens": 10**6},
    ],
)
def test_good_sampling_settings(params):
    check_sampling(SamplingParams(**params))


def request(num_prompt, max_tokens=None):
    return Request(
        request_id="r",
        prompt_token_ids=tuple(range(num_prompt)),
        sampling=SamplingParams(max_tokens=max_tokens),
    )


@pytest.mark.parametrize("tokens", [(-1,), (3, 100), (10**12,)])
def test_impossible_tokens(tokens):
    wrong = Request(request_id="r", prompt_token_ids=tokens)
    with pytest.raises(RequestError, match=r"0\.\.99"):
        check_prompt(wrong, max_context=50, vocab_size=100)


def test_prompts_at_the_limit():
    check_prompt(request(49), max_context=50, vocab_size=100)
    for length, text in ((0, "empty"), (50, "50 tokens and the context length is 50")):
        with pytest.raises(RequestError, match=text):
            check_prompt(request(length), max_context=50, vocab_size=100)


def test_new_tokens_at_the_limits():
    limits = {"max_context": 50, "capacity": 40}
    assert max_new_tokens(request(10, 30), **limits) == 30
    assert max_new_tokens(request(39), **limits) == 1
    assert max_new_tokens(request(1), **limits) == 39
    assert max_new_tokens(request(1), max_context=50, capacity=1000) == 49
    with pytest.raises(CapacityError, match="10 prompt tokens and 31 new ones"):
        max_new_tokens(request(10, 31), **limits)
    with pytest.raises(CapacityError):
        max_new_tokens(request(40), **limits)
    with pytest.raises(RequestError, match="ask for at most 40"):
        max_new_tokens(request(10, 41), **limits)
