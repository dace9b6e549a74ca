"""SIGKILL of workers, the server, or both, at random moments: every job ends once, exactly."""

import os
import signal
import time

import pytest
from kills_case import Turmoil, describe, until
from worker_case import quick_settings

LONG = 40


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The database that is named; it outlives all that uses it."""
    is_sqlite = request.param == "sqlite"
    return None if is_sqlite else request.getfixturevalue("postgres_schema")


@pytest.fixture
def turmoil(nursery, tmp_path):
    made = []

    def make(seed, database=None):
        settings = quick_settings(tmp_path, database=database, max_jobs=2, max_deaths=10_000)
        one = Turmoil(nursery.zygote, settings, nursery.model, tmp_path, seed=seed)
        made.append(one)
        one.start_server()
        return one

    yield make
    for one in made:
        one.close()


def run(one, whole, kills, capsys):
    """Kill until there were enough, with jobs to kill all the time; then look at what is left."""
    one.add_jobs(3)
    while sum(one.kills.values()) < kills:
        if one.is_over:
            one.add_jobs(3)
        one.kill_once()
    one.wait()
    # As after any crash, the next server mends what is left.
    one.stop_server()
    one.start_server()
    one.check(whole)
    one.stop_server()
    with capsys.disabled():
        print(f"\n  {describe(one)}")


def test_five_kills(nursery, turmoil, capsys):
    one = turmoil(1)
    run(one, nursery.whole, 5, capsys)
    assert one.hits >= 2, "the kills hit no worker"


@pytest.mark.slow
def test_forty_kills(url, nursery, turmoil, capsys):
    one = turmoil(2, url)
    run(one, nursery.whole, LONG, capsys)
    assert one.hits >= LONG // 3, "the kills hit too few workers"


@pytest.mark.slow
def test_a_worker_and_a_server_that_slept_through_their_leases(nursery, turmoil):
    one = turmoil(3)
    one.add_jobs(2)
    until(lambda: all(job.pid for job in one.rows()))
    first, server = one.rows()[0].pid, one.server
    os.kill(first, signal.SIGSTOP)
    os.kill(server, signal.SIGSTOP)
    time.sleep(2 * one.settings.lease_seconds)
    one.start_server()
    time.sleep(one.settings.lease_seconds)
    os.kill(server, signal.SIGCONT)
    one.wait()
    one.check(nursery.whole)
    os.kill(server, signal.SIGKILL)
