"""Calls on their way to the engine count before anything is done for them."""

import json
import threading
import urllib.request

import pytest
from live_server import live
from raw import PATIENCE, call, connected, send

from gossamer.errors import QuotaError
from gossamer.serving.core.messages import Request
from gossamer.serving.core.tenants import TenantLimits
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.intake import Intake
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.usage import TenantUsage

PLAIN = "/v1/completions"
BODY = {"model": "tiny", "prompt": "a"}


class Gate:
    """An engine's entry that says what it was asked."""

    def __init__(self):
        self.asked = []

    def check_entry(self, tenant, *, own, others):
        self.asked.append((tenant, own, others))
        if own >= 2:
            raise QuotaError("too many", retry_after=1)


def test_calls_count_until_they_are_submitted_or_given_up():
    gate = Gate()
    intake = Intake(gate, 100)
    with intake.enter("a") as first, intake.enter("a"), intake.enter("b"):
        with pytest.raises(QuotaError), intake.enter("a"):
            pass
        first.move_on()
        first.move_on()
        with intake.enter("a"):
            pass
    with intake.enter("a"):
        pass
    assert gate.asked == [
        ("a", 0, 0),
        ("a", 1, 1),
        ("b", 0, 2),
        ("a", 2, 3),
        ("a", 1, 2),
        ("a", 0, 0),
    ]


def test_bytes_of_all_bodies_are_bounded_and_a_tenant_has_half():
    intake = Intake(Gate(), 100)
    with intake.enter("a") as first, intake.enter("b") as second:
        first.hold(30)
        first.hold(20)
        with pytest.raises(ApiError, match="--max-bodies-mib") as caught:
            first.hold(1)
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
        second.hold(50)
        with intake.enter("c") as third, pytest.raises(ApiError):
            third.hold(1)
    with intake.enter("default") as alone:
        alone.hold(100)
        with pytest.raises(ApiError):
            alone.hold(1)
    with intake.enter("a") as again:
        again.hold(50)


def test_a_body_fits_the_room_for_all():
    with pytest.raises(ValueError, match="must be at least twice"):
        HttpSettings(max_body_mib=8, max_bodies_mib=15)


def rate_limiter(limits, max_waiting=10):
    return RateLimiter(max_waiting, TenantUsage(None), lambda tenant: limits, clock=lambda: 0.0)


def request(tenant, tokens):
    return Request(request_id="r", prompt_token_ids=(1,) * tokens, tenant=tenant)


def test_the_engine_counts_what_is_on_its_way():
    gate = rate_limiter(TenantLimits(max_in_flight=2))
    gate.admit(request("a", 1), 0)
    gate.check("a", own=0, num_waiting=1)
    with pytest.raises(QuotaError, match="2 requests in flight"):
        gate.check("a", own=1, num_waiting=2)
    gate.check("b", own=1, num_waiting=2)
    gate.leave("a")
    gate.check("a", own=1, num_waiting=1)


def test_who_has_used_up_its_tokens_is_told_before_encoding():
    gate = rate_limiter(TenantLimits(tokens_per_minute=10))
    gate.check("a", own=0, num_waiting=0)
    gate.admit(request("a", 10), 0)
    with pytest.raises(QuotaError, match="10 tokens per minute"):
        gate.check("a", own=0, num_waiting=1)


def test_a_refused_call_is_not_read(make_engine, ask, tokenizer, monkeypatch):
    engine = make_engine()

    def refuse(tenant, own, others):
        raise QuotaError("used up", retry_after=3)

    engine.refuse_entry = refuse
    calls = []
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, *a, **k: calls.append(a))
    monkeypatch.setattr("gossamer.serving.http.openai.generate.decode", calls.append)
    response = ask(engine, "POST", PLAIN, json=BODY)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert calls == [("",)]  # the encoder's own, at the start


def _slow(tokenizer, begun, gate):
    """The tokenizer's call, which for the text "slow" waits for the gate."""
    original = type(tokenizer).__call__

    def encode(self, text, **options):
        if text == "slow":
            begun.set()
            assert gate.wait(PATIENCE)
        return original(self, text, **options)

    return encode


def test_a_call_counts_while_it_is_encoded(make_engine, tokenizer, monkeypatch):
    engine, gate, begun = make_engine(), threading.Event(), threading.Event()
    asked = []
    engine.refuse_entry = lambda *counts: asked.append(counts)
    with live(engine) as address:
        monkeypatch.setattr(type(tokenizer), "__call__", _slow(tokenizer, begun, gate))
        first = threading.Thread(
            target=call, args=(address, "POST", PLAIN, {**BODY, "prompt": "slow"})
        )
        first.start()
        assert begun.wait(PATIENCE)
        assert call(address, "POST", PLAIN, BODY)[0] == 200
        gate.set()
        first.join(PATIENCE)
        assert call(address, "POST", PLAIN, BODY)[0] == 200
    assert asked == [("default", 0, 0), ("default", 1, 1), ("default", 0, 0)]


def test_a_call_that_is_left_while_it_is_encoded_is_not_submitted(
    make_engine, tokenizer, monkeypatch
):
    engine, gate, begun = make_engine(), threading.Event(), threading.Event()
    with live(engine) as address:
        monkeypatch.setattr(type(tokenizer), "__call__", _slow(tokenizer, begun, gate))
        with connected(address) as client:
            send(client, "POST", PLAIN, json.dumps({**BODY, "prompt": "slow"}).encode())
            assert begun.wait(PATIENCE)
        while 'status="499"' not in metrics(address):
            pass
        gate.set()
        assert call(address, "POST", PLAIN, BODY)[0] == 200
    assert [len(engine.submitted), sum(engine.finals.values())] == [1, 1]


def metrics(address):
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics") as reply:
        return reply.read().decode()
