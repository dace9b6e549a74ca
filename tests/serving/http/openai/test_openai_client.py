"""The official client against a real server."""

from functools import partial

import openai
import pydantic
import pytest
from live_server import live

from gossamer.errors import EngineStoppedError, OverloadedError, ServingError

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client_of(make_engine):
    """Start a server over a fake engine made with the given options; yields its clients."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(*, settings=None, api_key="unused", **options):
            host, port = stack.enter_context(live(make_engine(**options), **(settings or {})))
            base_url = f"http://{host}:{port}/v1"
            client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
            return stack.enter_context(client)

        yield make


def test_chat(client_of):
    reply = client_of().chat.completions.create(
        model="pirate", messages=HELLO, n=2, seed=1, logprobs=True, top_logprobs=1
    )
    assert [c.message.content for c in reply.choices] == ["I am pirate 1", "I am pirate 2"]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].logprobs.content[0].top_logprobs[0].token == "<0>"
    assert reply.usage.completion_tokens == 8


def test_chat_stream_with_usage(client_of):
    stream = client_of().chat.completions.create(
        model="tiny", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts = {0: "", 1: ""}
    reasons = {}
    usage = None
    for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    assert texts == {0: "I am base None", 1: "I am base None"}
    assert reasons == {0: "stop", 1: "stop"}
    assert usage.completion_tokens == 8


def test_completions(client_of):
    client = client_of()
    reply = client.completions.create(model="tiny", prompt=["a", "b"], logprobs=1, max_tokens=2)
    assert [choice.text for choice in reply.choices] == ["I am ", "I am "]
    assert reply.choices[1].logprobs.tokens == ["I", " am "]
    stream = client.completions.create(model="tiny", prompt=[4, 5], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "I am base None"


def test_extensions_go_through_extra_body(client_of, make_engine):
    engine = make_engine()
    with (
        live(engine) as (host, port),
        openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="unused") as client,
    ):
        extra = {"top_k": 5, "min_p": 0.1, "ignore_eos": True, "min_tokens": 1}
        client.chat.completions.create(model="tiny", messages=HELLO, extra_body=extra)
    sampling = engine.submitted[0].sampling
    assert (sampling.top_k, sampling.min_p, sampling.min_tokens) == (5, 0.1, 1)
    assert sampling.ignore_eos


def test_models(client_of):
    client = client_of()
    assert [model.id for model in client.models.list()] == ["tiny", "pirate", "poet"]
    assert client.models.retrieve("pirate").rank == 8
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "body", "expected"),
    [
        ({}, {"model": "nobody"}, openai.NotFoundError),
        ({}, {"temperature": 3}, openai.BadRequestError),
        ({}, {"max_tokens": 1000}, openai.BadRequestError),
        ({}, {"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError),
        ({"max_waiting": 0}, {}, openai.RateLimitError),
        ({"refuse": lambda r: EngineStoppedError("x")}, {}, openai.InternalServerError),
        ({"script": lambda r: [OverloadedError("x", retry_after=1)]}, {}, openai.RateLimitError),
    ],
)
def test_errors_are_the_right_exceptions(client_of, options, body, expected, stream):
    client = client_of(**options)
    with pytest.raises(expected) as caught:
        client.chat.completions.create(
            **{"model": "tiny", "messages": HELLO, "stream": stream, **body}
        )
    assert caught.value.request_id
    assert caught.value.body["message"]


def test_wrong_key(client_of):
    client = client_of(settings={"api_keys": ("right",)}, api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    assert len(client.with_options(api_key="right").models.list().data) == 3


def test_failure_in_mid_stream_raises(client_of):
    client = client_of(script=lambda request: ["a", ServingError("lost it")])
    stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a"]
    with pytest.raises(openai.APIError, match="lost it"):
        next(stream)


def test_client_retries_when_told_to(client_of):
    refusals = [OverloadedError("later", retry_after=0.01)]
    client = client_of(refuse=lambda request: refusals.pop() if refusals else None)
    reply = client.with_options(max_retries=1).chat.completions.create(model="tiny", messages=HELLO)
    assert reply.choices[0].message.content


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # its own, of its own message
def test_a_parsed_message_goes_on(client_of):
    class Answer(pydantic.BaseModel):
        word: str

    def script(request):
        return ['{"word": ', '"sun"}']

    client = client_of(script=script)
    ask = partial(client.chat.completions.parse, model="tiny", response_format=Answer)
    message = ask(messages=HELLO).choices[0].message
    assert message.parsed == Answer(word="sun")
    for again in (message, message.model_dump(), message.to_dict()):
        assert ask(messages=[*HELLO, again, *HELLO]).choices[0].message.parsed.word == "sun"
