"""What the Server view tells of waits, disk and training."""

import os

import pytest

from gossamer.machine import usable_cpus
from gossamer.studio.api import watch
from gossamer.studio.api.watch import RecentWaits, ServerWatch, TrainingShare

BOUNDS = (0.1, 0.5, 1.0, float("inf"))


def test_waits_are_those_of_the_last_minutes():
    waits = RecentWaits()
    assert waits.figures((BOUNDS, (0, 0, 0, 0))) == {"count": 0, "p50": None, "p95": None}
    waits.note(0.0, (BOUNDS, (100, 100, 100, 100)))
    # Ten more, half of them up to 0.1 s and the others up to 0.5 s.
    now = (BOUNDS, (105, 110, 110, 110))
    assert waits.figures(now) == {"count": 10, "p50": 0.1, "p95": pytest.approx(0.46)}
    waits.note(10.0, now)
    for seconds in (200.0, 309.0, 320.0):
        waits.note(seconds, now)
    assert waits.figures(now)["count"] == 0, "all that was counted is older than five minutes"
    late = (BOUNDS, (105, 110, 110, 114))
    assert waits.figures(late) == {"count": 4, "p50": 1.0, "p95": 1.0}


def test_the_share_of_training_is_of_all_usable_processors(monkeypatch):
    computed = {7: 10.0, 8: 0.0}
    monkeypatch.setattr(watch, "_cpu_seconds", computed.get)
    share = TrainingShare()
    assert share.of([7], 100.0) is None
    computed[7] += 2.0 * usable_cpus()
    computed[8] = 50.0
    # Process 8 is new: what it has computed before is not known to be of these seconds.
    assert share.of([7, 8], 104.0) == 0.5
    computed[7] += 100.0
    assert share.of([7, 8], 105.0) == 0.5, "it is looked at every few seconds only"
    assert share.of([9], 200.0) == 0.0, "a process that is gone computes no more"


def test_what_is_not_there_is_not_told_of(tmp_path):
    buckets = (BOUNDS, (0, 0, 0, 0))
    assert ServerWatch().figures(buckets).keys() == {"first_token"}
    found = ServerWatch(tmp_path, lambda: [os.getpid()]).figures(buckets)
    assert found["disk"]["total"] > found["disk"]["free"] > 0
    assert found["training"]["workers"] == 1
