"""A running job that gets no processor says so."""

import os
import subprocess
import sys

import pytest
from kills_case import until

from gossamer.jobs.supervise import starvation
from gossamer.jobs.supervise.starvation import STOPPED, Progressing, _Look, starving, waited_seconds

LATE = "other work has the processors; this job gets 3% of one"


@pytest.mark.parametrize(
    ("had", "waited", "reason"),
    [
        (0.3, 9.0, LATE),
        (0.3, None, LATE),
        # It reads a file, or waits for another process.
        (0.3, 1.0, None),
        (4.0, 9.0, None),
    ],
)
def test_who_gets_hardly_any_processor_and_wants_more_starves(had, waited, reason):
    known = None if waited is None else 100.0
    before = _Look(at=50.0, had=7.0, waited=known)
    now = _Look(at=60.0, had=7.0 + had, waited=None if waited is None else 100.0 + waited)
    assert starving(before, now) == reason


class Clock:
    """The monotonic clock, and what the system says of a worker."""

    def __init__(self, monkeypatch):
        self.at = self.had = self.waited = 0.0
        monkeypatch.setattr(starvation.time, "monotonic", lambda: self.at)
        monkeypatch.setattr(starvation, "cpu_seconds", lambda pid: self.had)
        monkeypatch.setattr(starvation, "waited_seconds", lambda pid: self.waited)

    def passes(self, seconds, *, had, waited):
        self.at, self.had, self.waited = self.at + seconds, self.had + had, self.waited + waited


def test_the_reason_stands_until_the_worker_gets_on(monkeypatch):
    clock, one = Clock(monkeypatch), Progressing()
    assert one.reason(1, is_paused=False) is None
    clock.passes(5, had=0, waited=5)
    assert one.reason(1, is_paused=False) is None
    clock.passes(5, had=0.3, waited=5)
    assert one.reason(1, is_paused=False) == LATE
    clock.passes(5, had=4, waited=0)
    assert one.reason(1, is_paused=False) == LATE
    clock.passes(5, had=4, waited=0)
    assert one.reason(1, is_paused=False) is None
    assert one.reason(1, is_paused=True) == STOPPED
    assert one.reason(1, is_paused=False) is None
    assert one.reason(None, is_paused=False) is None


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="Linux counts this")
def test_the_system_tells_how_long_a_process_has_waited():
    code = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        for each in busy:
            # One after the other on one processor: each waits while the other runs.
            os.sched_setaffinity(each.pid, {min(os.sched_getaffinity(0))})
        until(lambda: all(waited_seconds(each.pid) > 0.05 for each in busy))
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert waited_seconds(busy[0].pid) is None


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux has this way to give way")
def test_a_worker_that_gave_way_to_a_busy_server_starves(monkeypatch):
    monkeypatch.setattr(starvation, "WINDOW_SECONDS", 1.0)
    give_way = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
    loop = "print(1, flush=True)\nwhile True: pass"
    server, worker = (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for code in (loop, give_way + loop)
    )
    try:
        for each in (server, worker):
            each.stdout.readline()
            os.sched_setaffinity(each.pid, {min(os.sched_getaffinity(0))})
        one = Progressing()
        until(lambda: one.reason(worker.pid, is_paused=False) is not None)
        assert one.reason(worker.pid, is_paused=False).startswith("other work has the processors")
    finally:
        for each in (server, worker):
            each.kill()
            each.wait()
            each.stdout.close()


def test_a_job_that_starves_shows_why_and_forgets_it_when_it_ends(watched, monkeypatch):
    one = watched()
    job = one.add()
    one.supervisor.look()
    (child,) = one.children
    one.register(job, child)
    why = [LATE]
    monkeypatch.setattr(Progressing, "reason", lambda self, pid, is_paused: why[0])
    one.look_until(lambda: one.row(job).reason == LATE)
    why[0] = None
    one.look_until(lambda: one.row(job).reason is None)
    why[0] = LATE
    one.look_until(lambda: one.row(job).reason == LATE)
    assert one.store.attempts.release(job.id, 1, step=0, why="x") == "queued"
    assert one.row(job).reason is None
