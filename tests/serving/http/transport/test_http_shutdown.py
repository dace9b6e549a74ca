"""Signals, on a real process."""

import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

SCRIPT = Path(__file__).parents[3] / "helpers" / "serve_fake.py"
BODY = {"model": "tiny", "prompt": "a", "max_tokens": 10}


@contextmanager
def serving(*, delay=0.0, drain_seconds=10.0, hanging=()):
    """A process that serves; yields it and its address."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(delay), str(drain_seconds), *hanging],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


class Call(threading.Thread):
    """A stream read in the background."""

    def __init__(self, url, body):
        super().__init__()
        self.url, self.body, self.text, self.status = url, body, "", None
        self.first = threading.Event()
        self.start()
        assert self.first.wait(10)

    def run(self):
        try:
            with httpx.stream("POST", self.url, json=self.body, timeout=30) as response:
                self.status = response.status_code
                for piece in response.iter_text():
                    self.text += piece
                    self.first.set()
        except httpx.TransportError:
            self.text += "<cut>"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_running_streams_end_before_the_process(sent):
    with serving(delay=0.1) as (process, url):
        call = Call(f"{url}/v1/completions", {**BODY, "stream": True})
        process.send_signal(sent)
        time.sleep(0.4)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        call.join(10)
        assert process.wait(10) == 0
        assert call.text.endswith("data: [DONE]\n\n")
        assert call.text.count('"text":"x"') == 10
        assert process.stdout.read() == "ended {'length': 1} 1\n"
        assert process.stderr.read() == ""


def test_what_does_not_end_in_time_is_told_so():
    with serving(delay=1.0, drain_seconds=0.5) as (process, url):
        call = Call(f"{url}/v1/completions", {**BODY, "stream": True})
        started = time.monotonic()
        process.terminate()
        call.join(10)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 4
        assert "the server is shutting down" in call.text
        assert "[DONE]" not in call.text
        assert process.stdout.read() == "ended {'cancelled': 1} 1\n"


def test_second_signal_ends_at_once():
    with serving(delay=1.0) as (process, url):
        Call(f"{url}/v1/completions", {**BODY, "stream": True})
        process.terminate()
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        assert process.wait(2) == 128 + signal.SIGTERM
        assert "second signal" in process.stderr.read()


def test_idle_server_ends_soon_although_a_client_is_connected():
    with serving() as (process, url), httpx.Client() as client:
        assert client.get(f"{url}/health").status_code == 200
        started = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("hanging", "told"),
    [
        ("loop", "something hangs"),
        ("engine", "the engine did not stop in time"),
        ("route", "something hangs"),
        ("exit", "something hangs"),
    ],
)
def test_a_signal_ends_the_process_whatever_hangs(hanging, told):
    with serving(drain_seconds=0.2, hanging=[hanging]) as (process, url):
        if hanging == "route":
            threading.Thread(target=give_up, args=(process, f"{url}/v1/models/pirate")).start()
        if hanging in ("loop", "route"):
            assert process.stdout.readline() == "hangs\n"
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert told in process.stderr.read()


def give_up(process, url):
    """Ask for what hangs; if that answers, end the process that would be waited for."""
    with suppress(httpx.HTTPError):
        if httpx.get(url, timeout=5).status_code < 500:
            process.kill()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 2])
def test_a_signal_ends_a_start_that_hangs(signals):
    with serving(hanging=["start"]) as (process, line):
        assert line == "hangs"
        for sent in signals:
            process.send_signal(sent)
            time.sleep(0.1)
        assert process.wait(30) in (128 + signals[0], 1, -signal.SIGINT)


def test_a_second_signal_ends_the_process_although_the_loop_hangs():
    with serving(hanging=["loop"]) as (process, _):
        assert process.stdout.readline() == "hangs\n"
        process.terminate()
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert "second signal" in process.stderr.read()
