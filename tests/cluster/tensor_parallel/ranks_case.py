"""Engines whose model two or more processes compute, beside one that is of one process."""

import contextlib
import os
import time
from collections import Counter
from pathlib import Path

import torch.distributed as dist

from gossamer.llm import LLM


def llm(family, ranks, **settings):
    """Serve a family of adapters on `ranks` processes, each with one thread."""
    options = {"memory_gib": 0.05, "threads": 1, "rank_timeout": 60, **settings}
    return LLM(str(family.model), adapters=family.adapters, tensor_parallel=ranks, **options)


def followers(engine):
    """The process ids of the other ranks."""
    return list(engine.runner.team.children.pids.values())


def is_running(pid):
    """Whether there is such a process that has not ended."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition, seconds=20):
    """Wait for a condition; the time is for busy machines."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.01)


def send(pids, signal_number):
    """Send a signal to processes."""
    for pid in pids:
        os.kill(pid, signal_number)


def assert_equal_answers(got, want):
    """The same tokens, whose log-probabilities differ by rounding."""
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
    pairs = [
        (one.logprob, other.logprob)
        for expected, found in zip(want, got, strict=True)
        for one, other in zip(expected.logprobs, found.logprobs, strict=True)
    ]
    largest = max(abs(one - other) for one, other in pairs)
    print(f"\n  log-probabilities differ by {largest:.1e} at most")
    assert largest < 1e-5


def count_collectives(monkeypatch):
    """Count what the ranks say to each other from now on, by the name of the call."""
    counts = Counter()

    def counting(name):
        call = getattr(dist, name)

        def counted(*args, **named):
            counts[name] += 1
            return call(*args, **named)

        return counted

    for name in ("all_reduce", "all_gather", "gather"):
        monkeypatch.setattr(dist, name, counting(name))
    return counts
