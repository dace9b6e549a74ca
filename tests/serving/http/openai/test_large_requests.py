"""Requests of any size: off the event loop, judged before they are worked on, told in few words."""

import json
import threading

import pytest

from gossamer.errors import MAX_CUT
from gossamer.serving.http import body
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai import generate as answer
from gossamer.serving.http.openai import routes as models
from gossamer.serving.http.openai.channel import Channel
from gossamer.serving.http.openai.request_schema import ChatBody, CompletionBody
from gossamer.serving.http.routes import adapters
from gossamer.serving.http.routes.adapters import LoadBody
from gossamer.serving.http.settings import HttpSettings

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
LONG = "ab" * 30_000


@pytest.fixture
def off_the_loop(monkeypatch):
    """Fails the test if one of these runs on the event loop's thread; tells which have run."""
    seen = []

    def watch(owner, name):
        original = getattr(owner, name)
        function = getattr(original, "__func__", original)

        def watched(*args, **options):
            assert threading.current_thread() is not threading.main_thread(), name
            seen.append(name)
            return function(*args, **options)

        is_class = original is not function
        monkeypatch.setattr(owner, name, classmethod(watched) if is_class else watched)

    for schema in (ChatBody, CompletionBody, LoadBody):
        watch(schema, "parse")
    watch(answer, "decode")
    watch(answer, "plan")
    watch(answer, "unknown_model")
    watch(adapters, "decode")
    watch(models, "_written")
    watch(adapters, "_written")
    watch(Channel, "submit")
    return seen


def test_nothing_that_grows_with_a_request_runs_on_the_event_loop(make_engine, ask, off_the_loop):
    engine = make_engine()
    admin = {"settings": HttpSettings(api_keys=("k",)), "headers": {"Authorization": "Bearer k"}}
    assert ask(engine, "POST", PLAIN, json={"model": "tiny", "prompt": "a"}).status_code == 200
    assert ask(engine, "POST", CHAT, json={"model": "pirate", "messages": HELLO}).status_code == 200
    assert ask(engine, "POST", PLAIN, json={"model": "nobody", "prompt": "a"}).status_code == 404
    assert ask(engine, "GET", "/v1/models").status_code == 200
    assert ask(engine, "GET", "/v1/models/nobody").status_code == 404
    assert ask(engine, "GET", "/v1/adapters", **admin).status_code == 200
    loaded = ask(engine, "POST", "/v1/adapters", json={"name": "x", "path": "y"}, **admin)
    assert loaded.status_code == 200
    assert {"parse", "decode", "plan", "unknown_model", "_written", "submit"} == set(off_the_loop)


TOO_MANY = [
    # path, fields, part of the message
    (PLAIN, {"prompt": ["a"] * 200_000}, "200000 choices (prompts times 'n'); at most 128"),
    (PLAIN, {"prompt": [[1]] * 90_000}, "90000 choices (prompts times 'n'); at most 128"),
    (PLAIN, {"prompt": [1] * 900_000}, "the prompt has 900000 tokens"),
    (PLAIN, {"prompt": [[1], [1] * 900_000]}, "the prompt has 900000 tokens"),
    (PLAIN, {"prompt": "a", "stop": ["x"] * 200_000}, "200000 texts; at most 16"),
    (PLAIN, {"prompt": "a", "stop": LONG}, "60000 characters; at most 1000"),
    (PLAIN, {"prompt": "a" * 4_000}, "cannot hold 4000 characters"),
    (PLAIN, {"prompt": ["a", "a" * 4_000]}, "cannot hold 4000 characters"),
    (PLAIN, {"prompt": "a", **{f"f{n}": None for n in range(30_000)}}, "at most 200 are allowed"),
    (CHAT, {"messages": HELLO * 20_000}, "cannot hold 20000 messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 9_000}]},
     "9000 parts"),
    (CHAT, {"messages": [{"role": "user", "content": "a" * 700}] * 6}, "hold 4200 characters"),
    (CHAT, {"messages": [{"role": "user", "content": "", "name": LONG}]}, "60000 characters"),
    (CHAT, {"messages": [{"role": "assistant", "reasoning_content": LONG}]}, "60000 characters"),
    (CHAT, {"messages": [{"role": "tool", "content": "", "tool_call_id": LONG}]}, "60000 char"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "part"), TOO_MANY)
def test_parts_are_counted_before_they_are_looked_at(make_engine, ask, path, fields, part):
    engine = make_engine()
    response = ask(engine, "POST", path, json={"model": "tiny", **fields})
    assert response.status_code == 400
    assert part in response.json()["error"]["message"]
    assert engine.submitted == []


@pytest.fixture
def few_parts(monkeypatch):
    """Bounds that take no megabytes to reach."""
    monkeypatch.setattr(body, "MAX_VALUES", 5_000)
    monkeypatch.setattr(body, "MAX_CONTAINERS", 500)
    monkeypatch.setattr(body, "LOOK_EVERY", 1_000)


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":[' + b"1," * 5_000 + b"1]}",
        b'{"a":[' + b"[]," * 500 + b"1]}",
        b'{"a":[' + b"{}," * 500 + b"1]}",
        b"{" + b",".join(b'"%d":1' % number for number in range(500)) + b"}",
        b'{"a":[' + b'"",' * 5_000 + b'"never ended',
        b'{"a":[' + b'"a,a",' * 5_000 + b'"',
    ],
)
def test_more_parts_than_are_decoded_quickly_are_refused(few_parts, content):
    with pytest.raises(ApiError, match="send less at a time") as caught:
        body.decode(content)
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["[{:," * 6_000, 'a "quoted" \\ text, ' * 6_000, "\\\\" * 6_000])
def test_signs_inside_of_texts_are_no_parts(few_parts, text):
    content = json.dumps({"prompt": [text, text + '"[[[["']}).encode()
    assert body.decode(content)["prompt"][0] == text


LONG_TEXTS = [
    ("POST", PLAIN, {"model": "tiny", "prompt": "a", LONG: 1}),
    ("POST", PLAIN, {"model": LONG, "prompt": "a"}),
    ("POST", PLAIN, {"model": LONG[:500], "prompt": "a"}),
    ("POST", PLAIN, {"model": "a:" + LONG[:500], "prompt": "a"}),
    ("POST", PLAIN, {"model": f"{LONG[:240]}+{LONG[:240]}", "prompt": "a"}),
    ("POST", PLAIN, {"model": "tiny", "prompt": "a", "temperature": LONG}),
    ("POST", PLAIN, {"model": "tiny", "prompt": "a", "suffix": LONG}),
    ("POST", PLAIN, {"model": "tiny", "prompt": "a", "logit_bias": {LONG: LONG}}),
    ("POST", PLAIN, {"model": "tiny", "prompt": "a", "guided_json": [[LONG] * 5] * 5}),
    ("POST", PLAIN, {"model": "tiny", "prompt": "a", "stream": True, "stream_options": {LONG: 1}}),
    ("POST", CHAT, {"model": "tiny", "messages": [{"role": LONG, "content": "a"}]}),
    ("POST", CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "a", LONG: 1}]}),
    ("POST", CHAT, {"model": "tiny", "messages": [{"role": "user", "content": [{"type": LONG}]}]}),
    ("POST", "/v1/adapters", {"name": LONG, "path": LONG, LONG: 1}),
    ("POST", "/v1/adapters", {"name": [LONG]}),
    ("GET", f"/{LONG}", None),
    ("POST", f"/{LONG}", None),
    ("GET", f"/v1/models/{LONG}", None),
    ("GET", f"/v1/models/a:{LONG}", None),
    ("GET", f"/v1/models/{'+'.join(['a'] * 30_000)}", None),
    ("POST", f"/v1/models/{LONG}", None),
    (LONG, "/health", None),
    (LONG, f"/{LONG}", None),
]


@pytest.mark.parametrize("number", range(len(LONG_TEXTS)))
def test_an_error_repeats_little_of_what_was_sent(make_engine, ask, number):
    method, path, content = LONG_TEXTS[number]
    options = {"json": content} if content is not None else {}
    settings, headers = HttpSettings(api_keys=("k",)), {"Authorization": "Bearer k"}
    response = ask(make_engine(), method, path, settings=settings, headers=headers, **options)
    assert 400 <= response.status_code < 500
    error = response.json()["error"]
    for text in (error["message"], error["param"] or ""):
        assert LONG[: MAX_CUT + 1] not in text
        assert len(text) < 700, text


def test_the_list_of_models_is_plain_json(make_engine, ask):
    first = ask(make_engine(), "GET", "/v1/models")
    assert [model["id"] for model in first.json()["data"]] == ["tiny", "pirate", "poet"]
    assert first.headers["content-type"] == "application/json"
