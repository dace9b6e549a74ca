"""SIGKILL of workers, the server, or both, at random moments: every job ends once, exactly."""

import os
import signal
import time

import psutil
import pytest
from kills_case import Turmoil, describe, is_alive, until
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
    finish(one, whole)
    with capsys.disabled():
        print(f"\n  {describe(one)}")


def finish(one, whole):
    """Wait for the end of all jobs, and look at what is left."""
    one.wait()
    # As after any crash, the next server mends what is left.
    one.stop_server()
    one.start_server()
    one.check(whole)
    one.stop_server()


@pytest.mark.slow
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
def test_what_a_power_cut_leaves_is_taken_up_by_the_next_server(nursery, turmoil, tmp_path):
    one = turmoil(4)
    one.add_jobs(2)
    cuts = []
    until(one.is_at_work)
    while not one.is_over and len(cuts) < 6:
        time.sleep(0.3 * len(cuts) / 6)
        cuts.append(one.copy(tmp_path / f"cut-{len(cuts)}"))
    one.wait()
    assert len(cuts) >= 2
    assert any(job.status == "running" for cut in cuts for job in cut.rows())
    for cut in cuts:
        cut.start_server()
        finish(cut, nursery.whole)
        cut.close()


@pytest.mark.slow
def test_a_server_that_ran_two_hundred_jobs_has_not_grown(nursery, turmoil, capsys):
    one = turmoil(5)
    sizes, ended = [], []
    for _ in range(20):
        one.add_jobs(10, max_steps=1, save_every=1, eval_split=0)
        one.wait()
        sizes.append(psutil.Process(one.server).memory_info().rss / 2**20)
        ended += one.rows()
        one.jobs.clear()
    assert [job.status for job in ended] == ["succeeded"] * 200
    assert len({job.id for job in ended}) == 200
    with capsys.disabled():
        print(f"\n  the server held {', '.join(f'{size:.0f}' for size in sizes)} MiB")
    # The first jobs fill caches; after them nothing stays of a job.
    assert sizes[-1] - sizes[4] < 16


@pytest.mark.slow
def test_a_worker_and_a_server_that_slept_through_their_leases(nursery, turmoil):
    one = turmoil(3)
    one.add_jobs(2)
    until(lambda: one.store.supervisor.get())
    worker, server = one.stop_a_worker_and_the_server()
    asleep = one.store.supervisor.get()
    # Nothing but time lets a lease run out.
    until(lambda: max(asleep.lease_until, lease_of(one, worker)) < time.time())
    one.start_server()
    until(lambda: one.store.supervisor.get().owner != asleep.owner)
    until(lambda: not is_alive(worker))
    os.kill(server, signal.SIGCONT)
    one.wait()
    assert is_alive(server)
    assert one.store.supervisor.get().owner != asleep.owner, "it has been replaced"
    os.kill(server, signal.SIGKILL)
    finish(one, nursery.whole)


def lease_of(one, pid):
    """Until when the worker of that number is believed to live."""
    return max((job.lease_until or 0.0 for job in one.rows() if job.pid == pid), default=0.0)
