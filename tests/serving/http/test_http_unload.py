"""Adapters that are taken away while calls for them are on their way to a real engine."""

import json
import threading
from concurrent.futures import Future

import pytest
from engine_case import check_idle, start
from live_server import live
from raw import call, connected, reply, send

from tiny import make_lora

WAIT = 60
KEYED = {"Authorization": "Bearer secret"}


@pytest.fixture
def engine(tiny_model, tmp_path):
    for seed, name in enumerate(("one", "two")):
        make_lora(tmp_path / name, tiny_model, rank=4, seed=seed)
    engine = start(tiny_model, tmp_path)
    yield engine
    engine.shutdown()


class SlowForm:
    """The form of one call, which is compiled when the test says so."""

    def __init__(self, engine):
        self.is_asked = threading.Event()
        self._prepare, self._told = engine.model.grammars.prepare, Future()
        self._told.set_running_or_notify_cancel()
        engine.model.grammars.prepare = self.prepare

    def prepare(self, form):
        self._form = form
        self.is_asked.set()
        return self._told

    def compile(self):
        self._told.set_result(self._prepare(self._form).result(WAIT))


def asked(model, **fields):
    return {"model": model, "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0, **fields}


@pytest.mark.parametrize("model", ["one", "one:0.7+two:0.3"])
def test_an_unload_waits_for_a_call_whose_form_is_being_compiled(engine, model):
    form = {"structured_outputs": {"regex": "[a-z ]{3,9}"}}
    with live(engine, api_keys=("secret",)) as address:
        want = call(address, "POST", "/v1/completions", asked(model, **form), **KEYED)[2]
        slow = SlowForm(engine)
        with connected(address) as client, connected(address) as operator:
            body = json.dumps(asked(model, **form)).encode()
            send(client, "POST", "/v1/completions", body, **KEYED)
            assert slow.is_asked.wait(WAIT)
            send(operator, "DELETE", "/v1/adapters/one", **KEYED)
            # New calls do not find it, which tells that it was taken away.
            while call(address, "POST", "/v1/completions", asked("one"), **KEYED)[0] != 404:
                pass
            assert engine.adapter("one").state == "draining"
            slow.compile()
            status, _, got = reply(client)
            assert (status, got["choices"]) == (200, want["choices"])
            assert reply(operator)[0] == 200
        assert [each.name for each in engine.adapters()] == ["two"]
        check_idle(engine)


def test_a_client_that_leaves_holds_up_no_unload(engine):
    slow = SlowForm(engine)
    with live(engine, api_keys=("secret",)) as address, connected(address) as operator:
        with connected(address) as client:
            form = {"structured_outputs": {"regex": "[a-z]+"}}
            body = json.dumps(asked("one", **form)).encode()
            send(client, "POST", "/v1/completions", body, **KEYED)
            assert slow.is_asked.wait(WAIT)
            send(operator, "DELETE", "/v1/adapters/one", **KEYED)
        assert reply(operator)[0] == 200
        slow.compile()
        check_idle(engine)
