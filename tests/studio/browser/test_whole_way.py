"""Nothing is played: `gossamer studio`, a file, a run whose server is killed, a talk; by keys."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

PATIENCE = 300_000  # milliseconds: a run of a tiny model, on a machine that may be busy
ROWS = "".join(
    json.dumps({"prompt": f"What is {n} + 1?", "completion": f"It is {n + 1}."}) + "\n"
    for n in range(24)
)
STEPS = 300


class Studio:
    """The program, started as a person starts it."""

    def __init__(self, model, data):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._log = data.parent / "studio.log"
        self._command = [sys.executable, "-m", "gossamer", "studio", str(model)]
        self._command += ["--port", str(port), "--data-dir", str(data), "--jobs-share", "full"]
        self._process = None

    def start(self):
        """Start it; returns the link that it prints."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        deadline = time.monotonic() + PATIENCE / 1000
        while not (found := re.search(r"page: (\S+)", self._log.read_text())):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found[1]

    def end(self, number):
        """Send it a signal and wait until it is gone."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE / 1000)


@pytest.fixture
def studio(tiny_model, tmp_path):
    program = Studio(tiny_model, tmp_path / "data")
    yield program
    program.end(signal.SIGTERM)


def press(place):
    place.focus()
    place.press("Enter")


def test_from_a_file_to_a_talk_across_the_death_of_the_server(studio, open_page):
    link = studio.start()
    page = open_page(link, expected=("ERR_", "Failed to load"))
    page.set_default_timeout(PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs", timeout=PATIENCE)
    page.goto(f"{link.partition('#')[0]}new?t.max_steps={STEPS}&t.save_every=100")
    rows = {"name": "sums.jsonl", "mimeType": "application/jsonl", "buffer": ROWS.encode()}
    page.set_input_files("input[type=file]", rows)
    expect(page.get_by_label("Name")).to_have_value("sums", timeout=PATIENCE)
    press(page.get_by_role("button", name="Start", exact=True))
    expect(page.get_by_role("heading", level=1)).to_have_text("sums", timeout=PATIENCE)
    expect(page.get_by_text(re.compile(rf"\b[1-9]\d* of {STEPS}")).first).to_be_visible(
        timeout=PATIENCE
    )
    studio.end(signal.SIGKILL)
    expect(page.get_by_text("The server does not answer.")).to_be_visible(timeout=PATIENCE)
    studio.start()
    expect(page.get_by_text("The server does not answer.")).to_have_count(0, timeout=PATIENCE)
    chat = page.get_by_role("link", name="Chat with sums")
    expect(chat).to_be_visible(timeout=PATIENCE)
    curve = page.get_by_role("img", name=re.compile(f"over {STEPS} steps"))
    expect(curve).to_be_visible(timeout=PATIENCE)
    press(chat)
    field = page.get_by_label("Message")
    field.fill("What is 3 + 1?")
    field.press("Enter")
    expect(page.get_by_text(re.compile(r"tok/s|tokens/s"))).to_have_count(2, timeout=PATIENCE)
