"""Forms that take long to compile hold up nobody but who asks for them, and lose no adapter."""

import json
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack

import pytest
from fake_engine import endless
from live_server import live
from raw import connected, reply, send

from gossamer.errors import OverloadedError, RequestError

PLAIN = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
FORM = {"json": {"type": "object"}}
TOOL = {"name": "f", "parameters": {"type": "object"}}
CALLS = [
    (PLAIN, {"prompt": "a", "n": 2, "structured_outputs": FORM}),
    (CHAT, {"messages": HELLO, "structured_outputs": FORM, "stream": True}),
    (CHAT, {"messages": HELLO, "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": "required"}),
    ("/v1/responses", {"input": "a", "structured_outputs": FORM}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "output_config": {
        "format": {"type": "json_schema", "schema": {"type": "object"}}}}),
]  # fmt: skip


def ask(client, path, model="tiny", **fields):
    send(client, "POST", path, json.dumps({"model": model, **fields}).encode())


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class SlowForms:
    """What an engine has to prepare, which the test does."""

    def __init__(self, engine):
        self.asked = []
        engine.prepare = self.prepare

    def prepare(self, form):
        future = Future()
        # As an engine's, which no caller can cancel.
        future.set_running_or_notify_cancel()
        self.asked.append(future)
        return future


class Held:
    """The adapters that calls hold in an engine, with how many requests there were at each end."""

    def __init__(self, engine):
        self.open, self.ended = [], []
        self._engine = engine
        engine.hold = self.hold

    def hold(self, adapter):
        self.open.append(adapter.name)

        def let_go():
            self.open.remove(adapter.name)
            self.ended.append((adapter.name, len(self._engine.submitted)))

        return let_go


def is_answered(address):
    with connected(address) as client:
        ask(client, PLAIN, prompt="a")
        return reply(client)[0] == 200


@pytest.mark.parametrize(("path", "fields"), CALLS)
def test_other_calls_are_answered_while_a_form_is_compiled(make_engine, path, fields):
    engine = make_engine(max_context=4096)
    slow = SlowForms(engine)
    with live(engine) as address, ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(4)]
        for client in clients:
            ask(client, path, **fields)
        wait_for(lambda: len(slow.asked) == len(clients))
        assert is_answered(address)
        assert len(engine.submitted) == 1
        for future in slow.asked:
            future.set_result(None)
        for client in clients:
            assert b" 200 " in client.recv(64)
    assert len(engine.submitted) == 1 + 4 * fields.get("n", 1)


def test_a_client_that_leaves_while_its_form_is_compiled_leaves_nothing(make_engine):
    engine = make_engine()
    slow = SlowForms(engine)
    with live(engine) as address:
        with connected(address) as client:
            ask(client, PLAIN, prompt="a", structured_outputs=FORM)
            wait_for(lambda: slow.asked)
        assert is_answered(address)
        slow.asked[0].set_result(None)
        assert is_answered(address)
    assert [each.sampling.structured_outputs for each in engine.submitted] == [None, None]
    assert engine.cancelled == []


@pytest.mark.parametrize("name", ["pirate", "pirate:0.7+poet:0.3"])
def test_an_adapter_is_held_until_all_requests_of_a_call_are_submitted(make_engine, name):
    engine = make_engine()
    held, slow = Held(engine), SlowForms(engine)
    with live(engine) as address, connected(address) as client:
        ask(client, PLAIN, model=name, prompt="a", n=3, structured_outputs=FORM)
        wait_for(lambda: slow.asked)
        assert (len(held.open), held.ended, engine.submitted) == (1, [], [])
        slow.asked[0].set_result(None)
        assert reply(client)[0] == 200
    assert (held.open, [count for _, count in held.ended]) == ([], [3])


@pytest.mark.parametrize("why", ["left", "form", "prompt", "submit"])
def test_a_call_that_is_not_submitted_holds_no_adapter(make_engine, why):
    full = OverloadedError("full", retry_after=1)
    engine = make_engine(refuse=lambda request: full if why == "submit" else None)
    held, slow = Held(engine), SlowForms(engine)
    with live(engine) as address:
        with connected(address) as client:
            fields = {"structured_outputs": FORM, "max_tokens": 250 if why == "prompt" else 1}
            ask(client, PLAIN, model="pirate", prompt=[5] * 20, **fields)
            if why != "prompt":
                wait_for(lambda: slow.asked)
                assert held.open == ["pirate"]
            if why == "form":
                slow.asked[0].set_exception(RequestError("it cannot be kept to"))
            elif why == "submit":
                slow.asked[0].set_result(None)
            if why != "left":
                assert reply(client)[0] == (429 if why == "submit" else 400)
        wait_for(lambda: held.ended)
    assert (held.open, held.ended) == ([], [("pirate", 0)])


@pytest.mark.parametrize("stream", [False, True])
def test_a_form_that_cannot_be_kept_to_is_refused_by_the_field_that_was_sent(make_engine, stream):
    engine = make_engine(max_context=4096)
    slow = SlowForms(engine)
    with live(engine) as address, connected(address) as client:
        form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
        ask(client, "/v1/responses", input="a", text={"format": form}, stream=stream)
        wait_for(lambda: slow.asked)
        error = RequestError("it cannot be kept to", param="response_format.json_schema.schema")
        slow.asked[0].set_exception(error)
        status, _, body = reply(client)
    assert (status, body["error"]["param"]) == (400, "text.format.schema")
    assert engine.submitted == []


def test_a_client_that_leaves_while_it_is_submitted_holds_up_nobody(make_engine):
    engine = make_engine(script=endless, delay=0.01)
    begun, goes_on, submit = threading.Event(), threading.Event(), engine.submit

    def slow(request, on_event, adapter=None):
        if request.sampling.max_tokens == 77:
            begun.set()
            goes_on.wait(30)
        submit(request, on_event, adapter)

    engine.submit = slow
    with live(engine) as address:
        with connected(address) as client:
            ask(client, PLAIN, prompt="a", n=3, max_tokens=77)
            assert begun.wait(30)
        with connected(address) as other:
            ask(other, PLAIN, prompt="a", max_tokens=2)
            assert reply(other)[0] == 200
            assert not goes_on.is_set()
        # The first is cancelled by the thread that has submitted it; the others are not submitted.
        goes_on.set()
        wait_for(lambda: engine.cancelled)
        engine.wait_idle()
    [left] = [each for each in engine.submitted if each.sampling.max_tokens == 77]
    assert engine.cancelled == [left.request_id]
