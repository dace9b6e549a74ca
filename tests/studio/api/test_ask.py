"""One question to several models: one batch, one stream, and errors that stay in their column."""

import json
import socket
import time
from collections import defaultdict

import pytest
from fake_engine import endless
from live_server import live
from studio_case import SetJobs, events_in

from gossamer.errors import RequestError
from gossamer.serving.http.settings import HttpSettings
from gossamer.studio.extension import page_extension

QUESTION = [{"role": "user", "content": "hi"}]


def column(model):
    return {"model": model, "messages": QUESTION}


@pytest.fixture
def ask(call):
    """The columns of one question: texts, and how each ended."""

    def ask(engine, *models, **body):
        body = {"columns": [column(model) for model in models], **body}
        answer = call(engine, "POST", "/studio/api/ask", json=body)
        assert answer.status_code == 200, answer.text
        texts, ends = defaultdict(str), {}
        for _, data in events_in(answer.text):
            texts[data["column"]] += data.get("delta", "")
            if "delta" not in data:
                assert data["column"] not in ends, "a column ends once"
                ends[data["column"]] = data
        return texts, ends

    return ask


def test_all_columns_are_answered_in_one_go(make_engine, ask):
    engine = make_engine()
    texts, ends = ask(engine, "tiny", "pirate", "pirate:0.7+poet:0.3", seed=5)
    assert texts == {
        0: "I am base 5",
        1: "I am pirate 5",
        2: "I am pirate:0.7+poet:0.3 5",
    }
    assert [request.adapter for request in engine.submitted] == [
        None,
        "pirate",
        "pirate:0.7+poet:0.3",
    ]
    for end in ends.values():
        done = end["done"]
        assert done["finish_reason"] == "stop"
        assert done["completion_tokens"] == 4
        assert 0 < done["first_token_seconds"] <= done["seconds"]


@pytest.mark.parametrize("max_tokens", [5, 250])
def test_adapters_are_held_until_their_columns_are_submitted_or_fail(make_engine, ask, max_tokens):
    engine = make_engine()
    held, let_go = [], []

    def hold(adapter):
        held.append(adapter.name)
        return lambda: let_go.append((adapter.name, len(engine.submitted)))

    engine.hold = hold
    _, ends = ask(engine, "pirate", "poet", max_tokens=max_tokens)
    assert sorted(held) == ["pirate", "poet"]
    counts = [1, 2] if max_tokens == 5 else [0, 0]
    assert let_go == list(zip(["pirate", "poet"], counts, strict=True))
    assert all(("error" in end) == (max_tokens == 250) for end in ends.values())


def test_all_are_submitted_before_any_is_awaited(make_engine, ask):
    waiting = []

    def script(request):
        waiting.append(len(engine._running))
        return ["word"]

    # A token takes longer than to submit three requests.
    engine = make_engine(script=script, delay=0.3)
    ask(engine, "tiny", "pirate", "poet")
    assert waiting == [0, 1, 2], "the first had not ended when the last one came"


def test_sampling_holds_for_all_columns(make_engine, ask):
    engine = make_engine()
    _, ends = ask(engine, "tiny", "pirate", temperature=0.5, max_tokens=2)
    assert [(r.sampling.temperature, r.sampling.max_tokens) for r in engine.submitted] == [
        (0.5, 2),
        (0.5, 2),
    ]
    assert {end["done"]["finish_reason"] for end in ends.values()} == {"length"}


def test_an_unknown_model_is_an_error_of_its_column(make_engine, ask):
    texts, ends = ask(make_engine(), "pirat", "pirate", seed=1)
    assert ends[0]["error"]["code"] == "model_not_found"
    assert "pirate" in ends[0]["error"]["message"], "the nearest name is told"
    assert texts[1] == "I am pirate 1"


def test_an_answer_that_fails_on_its_way_keeps_what_it_said(make_engine, ask):
    def script(request):
        return ["ok ", RequestError("broke")] if request.adapter else ["fine"]

    texts, ends = ask(make_engine(script=script), "pirate", "tiny")
    assert texts[0] == "ok "
    assert ends[0]["error"]["message"] == "broke"
    assert ends[1]["done"]["finish_reason"] == "stop"


def test_a_refused_column_leaves_the_others(make_engine, ask):
    def refuse(request):
        return RequestError("not today") if request.adapter == "poet" else None

    texts, ends = ask(make_engine(refuse=refuse), "poet", "pirate", seed=1)
    assert ends[0]["error"]["message"] == "not today"
    assert texts[1] == "I am pirate 1"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "columns"),
        ({"columns": []}, "1 to 8"),
        ({"columns": [column("tiny")] * 9}, "1 to 8"),
        ({"columns": "tiny"}, "columns"),
        ({"columns": [column("tiny")], "stream": True}, "stream"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_whole(make_engine, call, body, word):
    answer = call(make_engine(), "POST", "/studio/api/ask", json=body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("broken", "word"),
    [("tiny", "messages"), ({"model": "tiny"}, "messages"), ({**column("tiny"), "n": 2}, "column")],
)
def test_a_column_that_makes_no_sense_is_told_in_its_place(make_engine, call, broken, word):
    body = {"columns": [broken, column("pirate")]}
    answer = call(make_engine(), "POST", "/studio/api/ask", json=body)
    ends = {d["column"]: d for _, d in events_in(answer.text) if "delta" not in d}
    assert word in ends[0]["error"]["message"]
    assert "done" in ends[1]


def test_without_a_key_nothing_is_answered_where_one_is_needed(make_engine, call):
    engine = make_engine()
    settings = HttpSettings(api_keys=("secret",))
    body = {"columns": [column("tiny")]}
    answer = call(engine, "POST", "/studio/api/ask", json=body, settings=settings)
    assert answer.status_code == 401
    assert engine.submitted == []
    headers = {"Authorization": "Bearer secret"}
    answer = call(engine, "POST", "/studio/api/ask", json=body, settings=settings, headers=headers)
    assert answer.status_code == 200


def test_a_page_that_leaves_cancels_every_column(make_engine):
    engine = make_engine(script=endless, delay=0.01)
    body = json.dumps({"columns": [column("tiny"), column("pirate")]}).encode()
    head = (
        "POST /studio/api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with live(engine, extensions=(page_extension(SetJobs()),)) as address:
        client = socket.create_connection(address, timeout=5)
        client.sendall(head.encode() + body)
        received = b""
        while b'"column":1' not in received or b'"column":0' not in received:
            received += client.recv(4096)
        client.close()
        engine.wait_idle()
        time.sleep(0.05)  # A second cancel would come within this time.
        assert len(engine.cancelled) == len(set(engine.cancelled)) == 2
