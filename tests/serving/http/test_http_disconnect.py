"""Clients that leave: each request of theirs is cancelled, once."""

import json
import socket
import time

import pytest
from fake_engine import endless
from live_server import live


def send(address, body, *, path="/v1/completions"):
    payload = json.dumps({"model": "tiny", "prompt": "hi", **body}).encode()
    kind = "Host: localhost\r\nContent-Type: application/json"
    head = f"POST {path} HTTP/1.1\r\n{kind}\r\nContent-Length: {len(payload)}\r\n\r\n"
    client = socket.create_connection(address, timeout=5)
    client.sendall(head.encode() + payload)
    return client


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def assert_cancelled_once(engine, count):
    engine.wait_idle()
    # A late second cancel would come within this time.
    time.sleep(0.05)
    assert len(engine.submitted) == count
    assert sorted(engine.cancelled) == sorted(r.request_id for r in engine.submitted)
    assert set(engine.finals.values()) == {1}
    assert engine.reasons == {"cancelled": count}


@pytest.mark.parametrize("n", [1, 3])
def test_stream_left_in_the_middle(make_engine, n):
    engine = make_engine(script=endless, delay=0.01)
    with live(engine) as address:
        client = send(address, {"stream": True, "n": n, "max_tokens": 200})
        received = b""
        while received.count(b"data: ") < 3 * n:
            received += client.recv(4096)
        client.close()
        assert_cancelled_once(engine, n)


@pytest.mark.parametrize("n", [1, 3])
def test_whole_reply_not_waited_for(make_engine, n):
    engine = make_engine(script=endless, delay=0.01)
    with live(engine) as address:
        client = send(address, {"n": n, "max_tokens": 200})
        wait_for(lambda: len(engine.submitted) == n)
        client.close()
        assert_cancelled_once(engine, n)


def test_stream_left_before_the_first_token(make_engine):
    engine = make_engine(script=endless, delay=30)
    with live(engine) as address:
        client = send(address, {"stream": True, "max_tokens": 200})
        wait_for(lambda: engine.submitted)
        client.close()
        assert_cancelled_once(engine, 1)


def test_connection_reset(make_engine):
    engine = make_engine(script=endless, delay=0.01)
    with live(engine) as address:
        client = send(address, {"stream": True, "max_tokens": 200})
        client.recv(4096)
        # Close with a reset instead of an orderly end.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert_cancelled_once(engine, 1)


def test_left_while_sending_the_body(make_engine):
    engine = make_engine()
    with live(engine) as address:
        client = socket.create_connection(address, timeout=5)
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
        )
        client.close()
        ended = send(address, {})
        assert b"200 OK" in ended.recv(4096)
        ended.close()
        engine.wait_idle()
    assert len(engine.submitted) == 1


def test_slow_reader_does_not_hold_up_others(make_engine):
    engine = make_engine(script=lambda request: ["x" * 5_000] * 200)
    with live(engine) as address:
        slow = send(address, {"stream": True, "max_tokens": 200})
        quick = send(address, {"stream": True, "max_tokens": 2})
        received = b""
        while b"[DONE]" not in received:
            received += quick.recv(65536)
        quick.close()
        slow.close()
        engine.wait_idle()
    assert set(engine.finals.values()) == {1}


def test_call_that_ended_is_not_cancelled(make_engine):
    engine = make_engine()
    with live(engine) as address:
        for stream in (False, True):
            client = send(address, {"stream": stream})
            received = b""
            while b"stop" not in received:
                received += client.recv(4096)
            time.sleep(0.02)
            client.close()
        time.sleep(0.05)
    assert engine.cancelled == []


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"HELLO\r\n\r\n"])
def test_garbage_on_the_line_harms_nobody(make_engine, garbage):
    engine = make_engine()
    with live(engine) as address:
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(garbage)
            assert b" 400 " in client.recv(4096)
        with send(address, {}) as client:
            assert b"200 OK" in client.recv(4096)
