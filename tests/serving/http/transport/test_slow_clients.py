"""Clients that send slowly, never end, never read, or come in crowds."""

import json
import time
from contextlib import ExitStack

import pytest
from fake_engine import endless
from fastapi import APIRouter, Request
from live_server import live
from raw import PATIENCE, call, connected, is_closed, reply, send

from gossamer.serving.http.extension import Extension
from gossamer.serving.http.transport import protocol

PLAIN = "/v1/completions"
HALF_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HALF_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{"
)


def drip(client, rounds=10_000):
    """Send a byte now and then, as long as the server takes them; True once it has closed."""
    client.setblocking(False)
    for _ in range(rounds):
        time.sleep(0.02)
        try:
            client.send(b"x")
            if client.recv(1, 2) == b"":  # MSG_PEEK
                return True
            break
        except BlockingIOError:
            continue
        except ConnectionError:
            return True
    client.settimeout(PATIENCE)
    return False


def test_a_head_that_drips_in_has_a_deadline_in_all(make_engine):
    with live(make_engine(), header_timeout=0.3) as address, connected(address) as client:
        client.sendall(HALF_HEAD)
        drip(client)
        status, headers, body = reply(client)
        assert status == 408
        assert headers["connection"] == "close"
        assert "0.3 s (--header-timeout)" in body["error"]["message"]


def test_a_connection_on_which_nothing_comes_is_closed(make_engine):
    with live(make_engine(), header_timeout=0.2) as address, connected(address) as client:
        assert reply(client)[0] == 408


def test_a_second_head_has_its_own_deadline_and_idleness_another(make_engine):
    settings = {"header_timeout": 0.3, "keep_alive": 300}
    with live(make_engine(), **settings) as address, connected(address) as client:
        send(client, "GET", "/health")
        assert reply(client)[0] == 200
        time.sleep(0.5)  # idle: longer than a head may take
        send(client, "GET", "/health")
        assert reply(client)[0] == 200
        client.sendall(HALF_HEAD)
        assert reply(client)[0] == 408


def test_an_idle_connection_is_closed_in_the_end(make_engine):
    with live(make_engine(), keep_alive=0.2) as address, connected(address) as client:
        send(client, "GET", "/health")
        assert reply(client)[0] == 200
        assert reply(client) is None


def test_a_body_that_drips_in_has_a_deadline_in_all(make_engine):
    engine = make_engine()
    with live(engine, body_timeout=0.3) as address, connected(address) as client:
        client.sendall(HALF_BODY)
        drip(client)
        status, _, body = reply(client)
        assert status == 408
        assert "--body-timeout" in body["error"]["message"]
        assert engine.submitted == []


def test_a_body_for_an_answer_that_was_given_already_has_one_too(make_engine):
    settings = {"body_timeout": 0.3, "api_keys": ("secret",)}
    with live(make_engine(), **settings) as address, connected(address) as client:
        client.sendall(HALF_BODY)
        assert reply(client)[0] == 401
        assert drip(client) or is_closed(client)


def uploads():
    """An extension that takes in any body and tells how long it was."""
    router = APIRouter()

    @router.post("/v1/files")
    async def take(http: Request):
        return {"bytes": len(await http.body())}

    return [Extension(routers=(router,), upload_paths=("/v1/files",))]


UPLOAD = HALF_BODY.replace(b"/v1/completions", b"/v1/files")


def test_an_upload_may_take_longer_as_a_whole_than_its_pieces(make_engine):
    with live(make_engine(), uploads(), body_timeout=2.0) as address, connected(address) as client:
        client.sendall(UPLOAD)
        for _ in range(27):
            time.sleep(0.08)
            client.sendall(b"x" * 37)
        assert reply(client)[2] == {"bytes": 1000}
        client.sendall(UPLOAD)
        assert reply(client)[0] == 408


def test_an_upload_that_is_refused_has_the_time_of_any_body(make_engine):
    settings = {"body_timeout": 0.3, "api_keys": ("secret",)}
    with live(make_engine(), uploads(), **settings) as address, connected(address) as client:
        client.sendall(UPLOAD)
        assert reply(client)[0] == 401
        assert drip(client) or is_closed(client)


def test_an_answer_may_take_longer_than_all_deadlines(make_engine):
    limits = {"header_timeout": 0.2, "body_timeout": 0.2, "keep_alive": 0.2, "write_timeout": 0.2}
    engine = make_engine(script=lambda request: ["x"] * 5, delay=0.2)
    with live(engine, **limits) as address:
        status, _, body = call(address, "POST", PLAIN, {"model": "tiny", "prompt": "a"})
        assert (status, body["choices"][0]["text"]) == (200, "xxxxx")


def test_a_stream_that_is_not_read_is_cancelled(make_engine):
    engine = make_engine(script=endless, delay=0.002, max_context=100_000)
    body = {"model": "tiny", "prompt": "a", "stream": True, "n": 8, "max_tokens": 50_000}
    body["logprobs"] = 20  # fills the buffers of the system the sooner
    with live(engine, write_timeout=0.3) as address:
        with connected(address, receive_buffer=4096) as client:
            send(client, "POST", PLAIN, json.dumps(body).encode())
            deadline = time.monotonic() + PATIENCE
            while engine.reasons["cancelled"] < 8:
                assert time.monotonic() < deadline, dict(engine.reasons)
                time.sleep(0.01)
            assert is_closed(client)
        assert call(address, "GET", "/health")[0] == 200


def test_half_sent_heads_and_bodies_shut_nobody_out(make_engine):
    with live(make_engine(), max_connections=8) as address, ExitStack() as stack:
        for number in range(60):
            client = stack.enter_context(connected(address))
            client.sendall(HALF_BODY if number % 2 else HALF_HEAD)
        assert call(address, "GET", "/health")[0] == 200
        status, _, body = call(address, "POST", PLAIN, {"model": "tiny", "prompt": "a"})
        assert status == 200, body
        text = call_text(address, "/metrics")
        assert 'gossamer_http_connections_cut_total{reason="room"}' in text
        assert float(sample(text, "gossamer_http_connections")) <= 9


def test_when_all_are_at_work_health_is_still_answered(make_engine):
    engine = make_engine(script=endless, delay=0.01, max_context=100_000)
    body = {"model": "tiny", "prompt": "a", "stream": True, "max_tokens": 50_000}
    with live(engine, max_connections=3, drain_seconds=0) as address, ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(connected(address))
            send(client, "POST", PLAIN, json.dumps(body).encode())
            assert client.recv(1)
        assert call(address, "GET", "/health")[0] == 200
        status, headers, refusal = call(address, "POST", PLAIN, {"model": "tiny", "prompt": "a"})
        assert (status, refusal["error"]["code"]) == (503, "too_many_connections")
        assert headers["retry-after"] == "1"
        assert len(engine.submitted) == 3


def test_what_is_no_http_or_has_too_large_a_head_is_told_so(make_engine):
    with live(make_engine()) as address:
        with connected(address) as client:
            client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            status, _, body = reply(client)
            assert (status, body["error"]["code"]) == (400, "invalid_http")
        with connected(address) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000)
            status, _, body = reply(client)
            assert (status, body["error"]["code"]) == (431, "head_too_large")
            assert "32 KiB; serve with more --max-header-kib" in body["error"]["message"]


@pytest.mark.parametrize("length", [70_000, 1_000_000])
def test_an_address_without_end_is_refused_and_the_client_reads_it(make_engine, length):
    with live(make_engine()) as address:
        for target in (b"/health?", b"/v1/models/"):
            with connected(address) as client:
                line = b"GET " + target + b"a" * length + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
                client.sendall(line)
                status, headers, body = reply(client)
                assert (status, body["error"]["code"]) == (414, "address_too_long")
                assert headers["connection"] == "close"
                limit = "longer than 32 KiB; serve with more --max-header-kib"
                assert body["error"]["message"] == f"the address of the request is {limit}"
                assert client.recv(1) == b""  # ended, not reset
        assert call(address, "GET", "/health")[0] == 200


def test_a_refused_client_that_goes_on_sending_is_closed(make_engine, monkeypatch):
    monkeypatch.setattr(protocol, "LINGER_BYTES", 100_000)
    with live(make_engine()) as address, connected(address) as client:
        client.sendall(b"GET /" + b"a" * 50_000)
        assert reply(client)[0] == 414
        with pytest.raises(ConnectionError):
            send_on(client, b"a" * 10_000)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.1)
    with live(make_engine()) as address, connected(address) as client:
        client.sendall(b"GET /" + b"a" * 50_000)
        assert reply(client)[0] == 414
        with pytest.raises(ConnectionError):
            send_on(client, b"a", pause=0.02)


def send_on(client, data, pause=0.0):
    for _ in range(1000):
        time.sleep(pause)
        client.sendall(data)


def test_clients_cannot_make_time_series(make_engine):
    with live(make_engine(), max_connections=20) as address:
        call(address, "GET", "/health")
        call(address, "ODD", "/health")
        call(address, "ODD", "/nowhere")
        call(address, "POST", PLAIN, {"model": "nobody", "prompt": "a"})
        call_text(address, "/metrics")
        before = set(series(call_text(address, "/metrics")))
        with connected(address) as client:
            for number in range(50):
                for method, path in (("ODD", "/health"), ("GET", "/nowhere")):
                    send(client, f"{method}{number}", f"{path}?{number}", User_Agent=f"a{number}")
                    assert reply(client)[0] in (404, 405)
                name = {"model": f"nobody{number}", "prompt": "a", "user": f"u{number}"}
                send(client, "POST", PLAIN, json.dumps(name).encode(), X_Request_Id=f"i{number}")
                assert reply(client)[0] == 404
        assert set(series(call_text(address, "/metrics"))) == before


def call_text(address, path):
    with connected(address) as client:
        send(client, "GET", path, Connection="close")
        content = b""
        while part := client.recv(65536):
            content += part
    return content.decode()


def series(text):
    return [line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("gossamer_")]


def sample(text, name):
    return next(line.split()[-1] for line in text.splitlines() if line.split(" ")[0] == name)
