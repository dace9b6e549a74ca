import json

import pytest

from gossamer.serving.core.messages import TokenLogprob, Tokens
from gossamer.serving.http.openai.responses import Choice, likeliest


@pytest.fixture
def complete(ask):
    def complete(engine, **body):
        return ask(engine, "POST", "/v1/completions", json={"model": "tiny", **body})

    return complete


def test_text_prompt_is_encoded_as_the_tokenizer_does(make_engine, complete, tokenizer):
    engine = make_engine()
    reply = complete(engine, prompt="Once").json()
    assert engine.submitted[0].prompt_token_ids == tuple(tokenizer("Once")["input_ids"])
    assert reply["object"] == "text_completion"
    assert reply["choices"] == [
        {"index": 0, "text": "I am base None", "logprobs": None, "finish_reason": "stop"}
    ]


def test_sixteen_new_tokens_unless_told_otherwise(make_engine, complete):
    engine = make_engine(script=lambda request: ["x"] * 100)
    assert complete(engine, prompt="Once").json()["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([5, 6, 7], [(5, 6, 7)]),
        ([[5, 6], [7]], [(5, 6), (7,)]),
    ],
)
def test_token_ids_are_taken_as_they_are(make_engine, complete, prompt, expected):
    engine = make_engine()
    complete(engine, prompt=prompt)
    assert [request.prompt_token_ids for request in engine.submitted] == expected


def test_several_prompts_times_n(make_engine, complete):
    engine = make_engine()
    reply = complete(engine, prompt=["a", "bb"], n=2, seed=10).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    # Each prompt gives what it would give alone.
    texts = [choice["text"] for choice in reply["choices"]]
    assert texts == ["I am base 10", "I am base 11"] * 2
    lengths = [len(request.prompt_token_ids) for request in engine.submitted]
    assert lengths == [1, 1, 2, 2]
    assert reply["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 16,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_the_likeliest_of_several_answers_are_given(make_engine, complete):
    engine = make_engine()
    reply = complete(engine, prompt=["a", "bb"], n=2, best_of=3, seed=10).json()
    assert len(engine.submitted) == 6
    assert {request.sampling.logprobs for request in engine.submitted} == {0}
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in reply["choices"])
    # All answers that were drawn count.
    assert reply["usage"]["completion_tokens"] == 24
    assert reply["usage"]["prompt_tokens"] == 3


def test_answers_are_ranked_by_their_mean_log_probability():
    choices = [Choice(index) for index in range(4)]
    for choice, logprobs in zip(choices, [(-1, -3), (-0.5,), (-9,), (-0.1, -0.3)], strict=True):
        for logprob in logprobs:
            token = TokenLogprob(token_id=1, text="x", logprob=logprob)
            choice.add(Tokens(request_id="r", token_ids=(1,), text=str(logprob), logprobs=(token,)))
    best = likeliest(choices, drawn=2, kept=1)
    assert [(choice.index, choice.text) for choice in best] == [(0, "-0.5"), (1, "-0.1-0.3")]


def test_logprobs_in_the_older_shape(make_engine, complete):
    choice = complete(make_engine(), prompt="a", logprobs=1, max_tokens=2).json()["choices"][0]
    assert choice["logprobs"] == {
        "text_offset": [0, 1],
        "token_logprobs": [-0.5, -0.5],
        "tokens": ["I", " am "],
        "top_logprobs": [{"<0>": -1.0, "I": -0.5}, {"<0>": -1.0, " am ": -0.5}],
    }


def test_stream_offsets_go_on_from_chunk_to_chunk(make_engine, complete):
    response = complete(make_engine(), prompt="a", logprobs=0, max_tokens=3, stream=True)
    lines = [line for line in response.text.split("\n\n") if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == "I am base"
    offsets = [choice["logprobs"]["text_offset"] for choice in choices if choice["logprobs"]]
    assert offsets == [[0], [1], [5]]
    assert choices[-1]["finish_reason"] == "length"


def test_minus_infinity_is_sent_as_a_number(make_engine, complete, monkeypatch):
    import fake_engine

    from gossamer.serving.core.messages import TokenLogprob, Tokens

    def tokens(request_id, piece, token_id, num_logprobs):
        logprob = TokenLogprob(token_id=1, text="a", logprob=-1.0, top=((2, "b", float("-inf")),))
        return Tokens(request_id=request_id, token_ids=(1,), text="a", logprobs=(logprob,))

    monkeypatch.setattr(fake_engine, "_tokens", tokens)
    choice = complete(make_engine(), prompt="a", logprobs=1, max_tokens=1).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -1.0, "b": -9999.0}]


def test_most_choices_of_one_call(make_engine, complete):
    engine = make_engine()
    response = complete(engine, prompt=["a"] * 65, n=2)
    assert response.status_code == 400
    assert "130 choices" in response.json()["error"]["message"]
    assert engine.submitted == []


def test_refused_submission_cancels_the_earlier_ones(make_engine, complete):
    from gossamer.errors import OverloadedError

    def refuse(request):
        is_third = request.request_id.endswith("-2")
        return OverloadedError("full", retry_after=0.2) if is_third else None

    engine = make_engine(refuse=refuse, script=lambda request: ["x"] * 10_000, delay=0.01)
    response = complete(engine, prompt="a", n=4)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert sorted(name[-1] for name in engine.cancelled) == ["0", "1"]
    engine.wait_idle()
    assert set(engine.finals.values()) == {1}
