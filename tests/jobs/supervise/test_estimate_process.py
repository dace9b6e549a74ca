"""The process that makes estimates stays for the next question, and is replaced when it is gone."""

import os

import pytest
from kills_case import until
from worker_case import quick_settings

from gossamer.jobs.supervise import estimate_process
from gossamer.jobs.supervise.estimate_process import EstimateProcess

STUB = """
import json, os, sys, time
for line in sys.stdin:
    question = json.loads(line)
    if question["run"].get("die"):
        sys.exit("cannot go on")
    time.sleep(question["run"].get("sleep", 0))
    print(json.dumps({"pid": os.getpid(), "folder": question["folder"]}), flush=True)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make such processes, which run a stub."""
    (tmp_path / "estimate_stub.py").write_text(STUB)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setattr(estimate_process, "_MODULE", "estimate_stub")
    made = []

    def make(**options):
        made.append(EstimateProcess(quick_settings(tmp_path), **options))
        return made[-1]

    yield make
    for process in made:
        process.close()


def test_one_process_answers_until_it_is_idle(make):
    process = make(idle_seconds=1.0)
    first = process.ask("/a", {})
    assert first == {"pid": process.pid, "folder": "/a"}
    assert process.ask("/b", {}) == {"pid": first["pid"], "folder": "/b"}
    until(lambda: process.pid is None)
    assert process.ask("/a", {})["pid"] != first["pid"]


def test_one_that_ends_or_takes_too_long_is_replaced(make):
    process = make(max_seconds=30.0)
    assert process.ask("/a", {"die": True})["error"] == "the estimate's process failed"
    assert process.pid is None
    assert "pid" in process.ask("/a", {})
    slow = make(max_seconds=0.1)
    assert slow.ask("/a", {"sleep": 60})["error"] == "no estimate within 0.1 seconds"
