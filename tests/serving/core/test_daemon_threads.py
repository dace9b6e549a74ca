"""Threads for work that may hang: what waits behind it, and what becomes of it."""

import subprocess
import sys
import threading

import pytest

from gossamer.serving.core import daemon_threads
from gossamer.serving.core.daemon_threads import DaemonThreads

WAIT = 30


@pytest.fixture
def gate():
    """Work that hangs until the test has ended."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(daemon_threads, "SLOW_SECONDS", 0.02)


def test_results_and_errors_come_in_order():
    threads, seen = DaemonThreads("t"), []
    futures = [threads.submit(lambda n=n: seen.append(n) or n) for n in range(50)]
    assert [future.result(WAIT) for future in futures] == list(range(50)) == seen
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(WAIT)
    with pytest.raises(SystemExit):
        threads.submit(sys.exit).result(WAIT)
    assert threads.submit(abs, -1).result(WAIT) == 1


def test_quick_work_has_one_thread_only():
    threads = DaemonThreads("t")
    names = {threads.submit(threading.get_ident).result(WAIT) for _ in range(20)}
    assert len(names) == 1


@pytest.mark.usefixtures("soon")
def test_what_hangs_holds_up_nothing_behind_it(gate):
    threads = DaemonThreads("t")
    stuck = [threads.submit(gate.wait) for _ in range(3)]
    assert threads.submit(abs, -1).result(WAIT) == 1
    assert not any(future.done() for future in stuck)
    gate.set()
    assert [future.result(WAIT) for future in stuck] == [True] * 3
    assert threads.submit(abs, -2).result(WAIT) == 2


@pytest.mark.usefixtures("soon")
def test_what_takes_too_long_is_given_up(gate):
    threads = DaemonThreads("t", limit_seconds=0.05, late=lambda: KeyError("too late"))
    stuck = threads.submit(gate.wait)
    with pytest.raises(KeyError, match="too late"):
        stuck.result(WAIT)
    assert threads.submit(abs, -1).result(WAIT) == 1


@pytest.mark.usefixtures("soon")
def test_when_every_thread_is_lost_what_waits_is_given_up_too_and_threads_come_back(gate):
    threads = DaemonThreads("t", limit_seconds=0.05, most=2)
    futures = [threads.submit(gate.wait) for _ in range(4)]
    for future in futures:
        with pytest.raises(TimeoutError):
            future.result(WAIT)
    gate.set()
    assert threads.submit(abs, -1).result(WAIT) == 1


def test_cancelled_work_is_not_done_and_none_is_taken_after_shutdown(gate):
    threads = DaemonThreads("t")
    done = []
    threads.submit(gate.wait)
    cancelled, dropped = threads.submit(done.append, 1), threads.submit(done.append, 2)
    assert cancelled.cancel()
    threads.shutdown(wait=False, cancel_futures=True)
    assert dropped.cancelled()
    with pytest.raises(RuntimeError):
        threads.submit(done.append, 3)
    gate.set()
    threads.shutdown()
    assert done == []


def test_an_interpreter_ends_although_work_hangs():
    code = (
        "import time\n"
        "from gossamer.serving.core.daemon_threads import DaemonThreads\n"
        "threads = DaemonThreads('t')\n"
        "started = threads.submit(print, 'begun', flush=True); started.result()\n"
        "threads.submit(time.sleep, 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"begun\n")
