import json

import pytest

from gossamer.errors import (
    AdapterFormatError,
    AdapterNotFoundError,
    AdapterReplacedError,
    BaseMismatchError,
    CapacityError,
    DataError,
    EngineStoppedError,
    MissingExtraError,
    ModelNotFoundError,
    OverloadedError,
    QuotaError,
    RequestError,
    ServingError,
    SettingError,
    StorageError,
    TrainingError,
    UnknownNameError,
    UnsupportedAdapterError,
)
from gossamer.serving.http.settings import HttpSettings

PLAIN = "/v1/completions"
BODY = {"model": "tiny", "prompt": "hello"}

CASES = [
    # error, status, code, param
    (RequestError("bad token id 70000", param="prompt"), 400, "invalid_value", "prompt"),
    (CapacityError("needs 9 blocks, the pool has 4"), 400, "capacity_exceeded", None),
    (AdapterNotFoundError("adapter 'x' is gone"), 404, "model_not_found", "model"),
    (UnsupportedAdapterError("DoRA is not served"), 422, "adapter_unsupported", "model"),
    (AdapterFormatError("truncated weights"), 422, "adapter_unusable", "model"),
    (BaseMismatchError("made for another base"), 422, "adapter_base_mismatch", "model"),
    (OverloadedError("too many requests", retry_after=2.5), 429, "overloaded", None),
    (EngineStoppedError("shutting down"), 503, "engine_stopped", None),
    (AdapterReplacedError("send it again"), 409, "adapter_replaced", None),
    (QuotaError("used up", retry_after=3), 429, "quota_exceeded", None),
    (ServingError("the step failed"), 500, "internal_error", None),
]


@pytest.mark.parametrize(("error", "status", "code", "param"), CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_refused_at_once(make_engine, ask, error, status, code, param, stream):
    engine = make_engine(refuse=lambda request: error)
    response = ask(engine, "POST", PLAIN, json={**BODY, "stream": stream})
    assert response.status_code == status
    shown = response.json()["error"]
    assert (shown["message"], shown["code"], shown["param"]) == (str(error), code, param)
    assert set(shown) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("error", "status", "code", "param"), CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_found_out_before_the_first_token(make_engine, ask, error, status, code, param, stream):
    """Also a stream has the right status: nothing has been sent yet."""
    engine = make_engine(script=lambda request: [error])
    response = ask(engine, "POST", PLAIN, json={**BODY, "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    # What has ended needs no cancel.
    assert engine.cancelled == []


def test_overload_says_when_to_come_back(make_engine, ask):
    engine = make_engine(max_waiting=0)
    response = ask(engine, "POST", PLAIN, json=BODY)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_failure_in_mid_stream_is_the_last_event(make_engine, ask):
    engine = make_engine(script=lambda request: ["a", "b", ServingError("lost it")])
    response = ask(engine, "POST", PLAIN, json={**BODY, "stream": True, "n": 2}, timeout=10)
    assert response.status_code == 200
    lines = [line for line in response.text.split("\n\n") if line]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["error"]["message"] == "lost it"
    assert last["error"]["type"] == "server_error"
    assert "data: [DONE]" not in lines
    engine.wait_idle()


def test_unknown_model_names_close_ones(make_engine, ask):
    response = ask(make_engine(), "POST", PLAIN, json={**BODY, "model": "pirat"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'pirate'" in error["message"]


@pytest.mark.parametrize(
    ("length", "max_tokens", "status", "part"),
    [
        (255, 1, 200, ""),
        (256, None, 400, "256 tokens"),
        (300, 1, 400, "300 tokens"),
        (250, 7, 400, "'max_tokens' to 6"),
        (250, 6, 200, ""),
    ],
)
def test_prompt_and_answer_must_fit_the_context(make_engine, ask, length, max_tokens, status, part):
    body = {"model": "tiny", "prompt": [5] * length, "max_tokens": max_tokens}
    if max_tokens is None:
        del body["max_tokens"]
    engine = make_engine(max_context=256)
    response = ask(engine, "POST", PLAIN, json=body)
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert part in response.json()["error"]["message"]
        assert engine.submitted == []


@pytest.mark.parametrize("stream", [False, True])
def test_surprise_has_an_id_and_no_traceback(make_engine, ask, caplog, stream):
    def refuse(request):
        raise ZeroDivisionError("secret detail")

    response = ask(make_engine(refuse=refuse), "POST", PLAIN, json={**BODY, "stream": stream})
    assert response.status_code == 500
    request_id = response.headers["x-request-id"]
    assert request_id in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert request_id in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_unknown_route_and_wrong_method(make_engine, ask):
    engine = make_engine()
    missing = ask(engine, "POST", "/v1/embeddings", json={})
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "no such route: POST /v1/embeddings"
    wrong = ask(engine, "GET", PLAIN)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert "use POST" in wrong.json()["error"]["message"]


def test_body_over_the_limit(make_engine, ask):
    settings = HttpSettings(max_body_mib=0.01)
    body = {**BODY, "prompt": "x" * 20_000}
    response = ask(make_engine(), "POST", PLAIN, json=body, settings=settings)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert "0.01 MiB" in response.json()["error"]["message"]


def test_huge_prompts_are_refused_without_encoding(make_engine, ask, tokenizer, monkeypatch):
    engine = make_engine()
    calls = []
    # The encoder's own first call, and nothing after it.
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, *a, **k: calls.append(a))
    text = "x" * 1_000_000
    turns = [{"role": "user", "content": text}]
    many = [{"role": "user", "content": ""}] * 300
    for path, body in (
        (PLAIN, {"model": "tiny", "prompt": [text]}),
        ("/v1/chat/completions", {"model": "tiny", "messages": turns}),
        ("/v1/chat/completions", {"model": "tiny", "messages": many}),
    ):
        response = ask(engine, "POST", path, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert calls == [("",)] * 3


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (SettingError("setting 'rank' must be above 0"), 400, None),
        (UnknownNameError("unknown method 'lara'"), 400, None),
        (DataError("chats.jsonl, line 3: 'messages' is missing"), 400, None),
        (ModelNotFoundError("no model 'x'"), 400, None),
        (TrainingError("loss became NaN"), 400, None),
        (MissingExtraError("jobs need sqlalchemy"), 501, "false"),
        (StorageError("no space left"), 507, "false"),
        (ServingError("the step failed"), 500, "false"),
        (ValueError("a bug"), 500, "false"),
        (EngineStoppedError("shutting down"), 503, None),
    ],
)
def test_what_a_retry_cannot_cure_is_said_to_clients_that_repeat(
    make_engine, ask, error, status, retry
):
    response = ask(make_engine(refuse=lambda request: error), "POST", PLAIN, json=BODY)
    assert response.status_code == status
    assert response.headers.get("x-should-retry") == retry
