"""Transactions of several threads, on both databases."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_helpers import SHA, add_file, add_job, messages, new_job

from gossamer.errors import JobError, QuotaError, StorageError
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.jobs import Repeat
from gossamer.jobs.store.scoped import EVERYONE, PageAsk
from gossamer.jobs.store.tables import JobRow


def test_transactions_that_read_and_then_write_lose_nothing(store):
    job = add_job(store)
    start = threading.Barrier(6)

    def add_one(_):
        start.wait()
        with store.database.write() as session:
            row = session.get_one(JobRow, job.id, with_for_update=True)
            time.sleep(0.01)
            row.deaths += 1

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(add_one, range(6)))
    assert store.jobs.get("a", job.id).deaths == 6


def test_reading_goes_on_while_another_writes(store):
    job = add_job(store)
    with store.database.write() as session:
        session.get_one(JobRow, job.id).deaths = 9
        session.flush()
        assert store.jobs.get("a", job.id).deaths == 0
    assert store.jobs.get("a", job.id).deaths == 9


def test_events_of_many_writers_have_no_gap(store):
    job = add_job(store)
    actions = [store.jobs.pause, store.jobs.resume] * 10
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda act: act("a", job.id), actions))
    assert len(messages(store, job)) >= 4


def test_the_same_request_sent_many_times_at_once_makes_one_job(store):
    file = add_file(store)

    def create(_):
        return store.jobs.create(new_job(file), Repeat(key="k"))

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(create, range(12)))
    assert len({job.id for job, _ in made}) == 1
    assert [is_new for _, is_new in made].count(True) == 1
    assert len(store.jobs.page(EVERYONE, PageAsk()).data) == 1


def test_limits_hold_for_requests_that_come_at_once(store):
    file = add_file(store)

    def create(_):
        try:
            return store.jobs.create(new_job(file, max_waiting=3), Repeat())
        except QuotaError:
            return None

    with ThreadPoolExecutor(6) as threads:
        made = [job for job in threads.map(create, range(12)) if job]
    assert len(made) == 3


@pytest.mark.parametrize("round", range(5))
def test_a_file_is_deleted_or_used_never_both(store, round):
    file = add_file(store)

    def delete():
        try:
            store.files.delete("a", file.id)
        except JobError as error:
            return error.code
        return "deleted"

    def use():
        try:
            add_job(store, file=file)
        except JobError as error:
            return error.code
        return "used"

    with ThreadPoolExecutor(2) as threads:
        outcomes = {threads.submit(delete), threads.submit(use)}
        found = {each.result() for each in outcomes}
    assert found in ({"deleted", "file_not_found"}, {"used", "file_in_use"})


@pytest.mark.parametrize("round", range(5))
def test_a_blob_is_forgotten_or_has_a_row(store, round):
    store.files.delete("a", add_file(store).id)
    with ThreadPoolExecutor(2) as threads:
        gone = threads.submit(store.files.forget_blob, SHA)
        file = threads.submit(add_file, store).result()
    assert store.files.get("a", file.id)
    assert store.files.blob_is_used(SHA), gone.result()
    assert store.files.unused_blobs() == []


def test_a_database_that_is_away_is_told_in_one_line(tmp_path):
    away = Database(f"sqlite:///{tmp_path}/no/such/folder/x.sqlite")
    with (
        pytest.raises(StorageError, match="the database cannot be used: unable to open"),
        away.read() as session,
    ):
        session.connection()
    away.close()
