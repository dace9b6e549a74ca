"""What is said of prompts: `echo`, `prompt_logprobs` and no new tokens at all."""

import json

import pytest

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def complete(ask):
    def complete(engine, **body):
        return ask(engine, "POST", "/v1/completions", json={"model": "tiny", **body})

    return complete


def chunks_of(response):
    lines = [line for line in response.text.split("\n\n") if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_an_echoed_prompt_has_the_log_probabilities_of_its_tokens(make_engine, complete):
    """Token by token with the answer, as evaluation harnesses read it; the first has none."""
    reply = complete(make_engine(), prompt="a\u00e9", echo=True, logprobs=1, max_tokens=1).json()
    (choice,) = reply["choices"]
    assert choice["text"] == "a\u00e9I"
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"] == [None, -1.0, -2.0, -0.5]
    assert logprobs["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "I"]
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][1]["<0>"] == -0.1
    assert logprobs["top_logprobs"][3] == {"<0>": -1.0, "I": -0.5}
    assert "prompt_logprobs" not in choice
    assert reply["usage"]["prompt_tokens"] == 3
    assert reply["usage"]["completion_tokens"] == 1


def test_token_ids_are_echoed_as_text(make_engine, complete, tokenizer):
    ids = tokenizer("Once")["input_ids"]
    reply = complete(make_engine(), prompt=[ids, ids[:2]], n=2, echo=True, max_tokens=1).json()
    assert [choice["text"] for choice in reply["choices"]] == ["OnceI", "OnceI", "OnI", "OnI"]
    assert all(choice["logprobs"] is None for choice in reply["choices"])


def test_special_tokens_that_the_text_has_not_take_no_room_in_it(make_engine, complete):
    choice = complete(make_engine(), prompt=[1, 40, 41], echo=True, logprobs=0).json()["choices"][0]
    begin = choice["text"].index("I am")
    assert choice["logprobs"]["text_offset"][3] == begin
    engine = make_engine()
    engine.tokenizer = HeadedTokenizer(engine.tokenizer)
    choice = complete(engine, prompt="ab", echo=True, logprobs=0).json()["choices"][0]
    assert choice["text"].startswith("abI am")
    assert choice["logprobs"]["text_offset"][:4] == [0, 0, 1, 2]


class HeadedTokenizer:
    """Puts a special token in front of each text."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __call__(self, texts, **options):
        encoded = self._tokenizer(texts, **options)
        many = isinstance(texts, list)
        ids = encoded["input_ids"] if many else [encoded["input_ids"]]
        headed = [[1, *each] for each in ids]
        return {**encoded, "input_ids": headed if many else headed[0]}

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_stream_begins_with_the_prompt(make_engine, complete, logprobs):
    fields = {"prompt": "ab", "echo": True, "logprobs": logprobs, "max_tokens": 2, "n": 2}
    engine = make_engine()
    whole = complete(engine, **fields).json()["choices"]
    chunks = [c["choices"][0] for c in chunks_of(complete(engine, **fields, stream=True))]
    for choice in whole:
        own = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
        assert own[0]["text"] == "ab"
        assert "".join(chunk["text"] for chunk in own) == choice["text"] == "abI am "
        if logprobs is not None:
            for field in ("tokens", "token_logprobs", "text_offset"):
                told = [x for chunk in own if chunk["logprobs"] for x in chunk["logprobs"][field]]
                assert told == choice["logprobs"][field]


def test_no_new_tokens_are_an_empty_answer(make_engine, complete, ask):
    engine = make_engine()
    choice = complete(engine, prompt="ab", max_tokens=0).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    scored = complete(engine, prompt="ab", max_tokens=0, echo=True, logprobs=0).json()
    assert scored["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.0]
    assert scored["usage"]["completion_tokens"] == 0
    # What fills the context may be scored, though nothing can follow it.
    full = complete(engine, prompt=[5] * 256, max_tokens=0, echo=True, logprobs=0)
    assert full.status_code == 200
    refused = complete(engine, prompt=[5] * 256, max_tokens=1)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert complete(engine, prompt=[5] * 257, max_tokens=0).status_code == 400


def test_prompt_logprobs_have_the_shape_of_vllm(make_engine, complete, ask):
    fields = {"prompt_logprobs": 1, "max_tokens": 1}
    choice = complete(make_engine(), prompt="ab", **fields).json()["choices"][0]
    first, second = choice["prompt_logprobs"]
    assert first is None
    assert second.pop("1000") == {"logprob": -0.1, "rank": 1, "decoded_token": "<0>"}
    ((_, own),) = second.items()
    assert (own["logprob"], own["rank"]) == (-1.0, 7)
    assert choice["logprobs"] is None
    reply = ask(
        make_engine(),
        "POST",
        "/v1/chat/completions",
        json={"model": "tiny", "messages": HELLO, "n": 2, **fields},
    ).json()
    assert reply["prompt_logprobs"][0] is None
    assert len(reply["prompt_logprobs"]) == reply["usage"]["prompt_tokens"]


def test_both_lengths_of_alternatives_may_be_asked_for(make_engine, complete):
    engine = make_engine()
    fields = {"echo": True, "logprobs": 3, "prompt_logprobs": 1, "max_tokens": 0}
    choice = complete(engine, prompt="ab", **fields).json()["choices"][0]
    assert engine.submitted[0].sampling.prompt_logprobs == 3
    assert len(choice["prompt_logprobs"][1]) == 2
    assert len(choice["logprobs"]["top_logprobs"][1]) == 4
