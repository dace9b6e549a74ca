"""Jobs as their owners see them, on both databases."""

import pytest
from job_helpers import add_file, add_job, messages, new_job

from gossamer.errors import JobError, QuotaError, UnknownIdError
from gossamer.jobs.store.jobs import Repeat
from gossamer.jobs.store.scoped import EVERYONE, PageAsk


def begin(store, job):
    """Have a worker on the job, and return the attempt's number."""
    supervise(store)
    attempt = store.attempts.begin(job.id, "owner", lease_until=2e9)
    store.attempts.register(job.id, attempt, place="here", pid=1, pid_started=1.0, lease_until=2e9)
    return attempt


def supervise(store):
    from gossamer.jobs.store.records import SupervisorRecord

    row = SupervisorRecord(owner="owner", place="here", pid=1, pid_started=1.0, lease_until=2e9)
    assert store.supervisor.take(row, lambda _: False)


def test_a_job_with_checked_files_is_queued_at_once(store):
    file = add_file(store)
    job = add_job(store, file=file)
    assert job.status == "queued"
    assert messages(store, job) == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {file.id}",
        "Files validated, moving job to queued state",
    ]


def test_a_job_waits_for_the_check_of_its_files_and_fails_with_them(store):
    good, bad = add_file(store, status="uploaded"), add_file(store, status="uploaded")
    first, second = add_job(store, file=good), add_job(store, file=bad)
    assert {first.status, second.status} == {"validating_files"}
    assert store.jobs.judge_files() == []
    store.files.set_status(good.id, "processed")
    store.files.set_status(bad.id, "error", "row 3: no completion")
    changed = {job.id: job for job in store.jobs.judge_files()}
    assert changed[first.id].status == "queued"
    failed = changed[second.id]
    assert failed.status == "failed"
    assert failed.error["code"] == "invalid_file"
    assert failed.error["param"] == "training_file"
    assert "row 3: no completion" in failed.error["message"]
    assert store.jobs.judge_files() == []


def test_files_that_are_not_the_tenants_or_are_refused_make_no_job(store):
    with pytest.raises(UnknownIdError, match="there is no file"):
        add_job(store, "b", file=add_file(store, "a"))
    with pytest.raises(JobError) as refused:
        add_job(store, file=add_file(store, status="error"))
    assert refused.value.code == "invalid_file"
    assert refused.value.param == "training_file"
    assert store.jobs.page(EVERYONE, PageAsk()).data == []


def test_the_same_key_finds_the_job_again_and_another_body_is_refused(store):
    file = add_file(store)
    job, is_new = store.jobs.create(new_job(file), Repeat(key="k"))
    assert is_new
    assert store.jobs.create(new_job(file), Repeat(key="k")) == (job, False)
    with pytest.raises(JobError) as refused:
        store.jobs.create(new_job(file, request_sha256="1" * 64), Repeat(key="k"))
    assert refused.value.code == "idempotency_mismatch"
    other = store.jobs.create(new_job(add_file(store, "b"), "b"), Repeat(key="k"))
    assert other[1], "keys of tenants are their own"
    store.jobs.forget_old_keys(now=job.created + 25 * 3600)
    assert store.jobs.create(new_job(file), Repeat(key="k"))[1]


def test_a_retry_without_a_key_finds_the_job_that_the_first_try_made(store):
    file = add_file(store)
    job = add_job(store, file=file)
    assert store.jobs.create(new_job(file), Repeat(is_retry=True)) == (job, False)
    assert store.jobs.create(new_job(file), Repeat())[1], "asked twice means twice"
    assert store.jobs.create(new_job(file, request_sha256="1" * 64), Repeat(is_retry=True))[1]


def test_a_tenant_may_not_queue_without_end(store):
    for _ in range(2):
        add_job(store, max_waiting=2)
    with pytest.raises(QuotaError, match="2 jobs of tenant 'a' wait already"):
        add_job(store, max_waiting=2)
    add_job(store, "b", max_waiting=2)


def test_pages_meet_each_job_once_in_both_orders(store):
    file = add_file(store)
    made = [add_job(store, file=file).id for _ in range(7)]
    for order, wanted in (("asc", made), ("desc", made[::-1])):
        seen, after = [], None
        while True:
            page = store.jobs.page("a", PageAsk(limit=3, after=after, order=order))
            seen += [job.id for job in page.data]
            if not page.has_more:
                break
            after = seen[-1]
        assert seen == wanted
    assert store.jobs.page("a", PageAsk(limit=7)).has_more is False


def test_jobs_are_found_by_all_pairs_of_their_metadata(store):
    file = add_file(store)
    odd = {"a'\"]": "%_", "k": "v"}
    both = add_job(store, file=file, metadata=odd)
    one = add_job(store, file=file, metadata={"k": "v"})
    none = add_job(store, file=file)

    def found(**filters):
        return {job.id for job in store.jobs.page("a", PageAsk(), **filters).data}

    assert found(metadata={"k": "v"}) == {both.id, one.id}
    assert found(metadata=odd) == {both.id}
    assert found(metadata={"k": "w"}) == set()
    assert found(without_metadata=True) == {none.id}
    assert store.jobs.metadata([both.id, one.id, none.id]) == {both.id: odd, one.id: {"k": "v"}}
    assert found(statuses=("running",)) == set()


def test_what_waits_is_paused_resumed_and_cancelled_at_once(store):
    job = add_job(store)
    assert store.jobs.pause("a", job.id).status == "paused"
    assert store.jobs.pause("a", job.id).status == "paused"
    assert store.attempts.begin(job.id, "owner", lease_until=2e9) is None
    assert store.jobs.resume("a", job.id).status == "queued"
    assert store.jobs.resume("a", job.id).status == "queued"
    cancelled = store.jobs.cancel("a", job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished is not None
    assert store.jobs.cancel("a", job.id).finished == cancelled.finished
    assert messages(store, job)[3:] == [
        "Paused before the first step",
        "The job waits to go on",
        "The job was cancelled",
    ]
    again = store.jobs.resume("a", job.id)
    assert (again.status, again.finished, again.wanted) == ("queued", None, "run")


def test_of_a_running_job_only_what_is_wanted_changes(store):
    job = add_job(store)
    begin(store, job)
    assert store.jobs.pause("a", job.id).status == "running"
    assert store.jobs.get("a", job.id).wanted == "pause"
    assert store.jobs.resume("a", job.id).wanted == "run"
    assert store.jobs.cancel("a", job.id).wanted == "cancel"
    for change in (store.jobs.pause, store.jobs.resume):
        with pytest.raises(JobError, match="being cancelled") as refused:
            change("a", job.id)
        assert refused.value.code == "wrong_state"


def test_a_finished_job_changes_no_more(store):
    from gossamer.jobs.store.attempts import JobOutcome

    job = add_job(store)
    attempt = begin(store, job)
    assert store.attempts.finish(job.id, attempt, JobOutcome(digest="d", bytes=1))
    for change in (store.jobs.cancel, store.jobs.pause, store.jobs.resume):
        with pytest.raises(JobError, match="is succeeded; only a ") as refused:
            change("a", job.id)
        assert refused.value.code == "wrong_state"


def test_what_is_another_tenants_does_not_exist(store):
    job = add_job(store, "a")
    asks = [
        lambda: store.jobs.get("b", job.id),
        lambda: store.jobs.cancel("b", job.id),
        lambda: store.jobs.pause("b", job.id),
        lambda: store.jobs.resume("b", job.id),
        lambda: store.events.all_of("b", job.id),
        lambda: store.files.get("b", job.training_file),
        lambda: store.files.delete("b", job.training_file),
        lambda: store.jobs.page("b", PageAsk(after=job.id)),
        lambda: store.models.get("b", job.name),
    ]
    for ask in asks:
        with pytest.raises(UnknownIdError) as refused:
            ask()
        assert refused.value.code.endswith("_not_found")
    assert store.jobs.page("b", PageAsk()).data == []
    assert store.jobs.get("a", job.id).status == "queued"
    assert store.jobs.get(EVERYONE, job.id).id == job.id


def test_a_waiting_job_that_could_never_run_is_refused(store):
    job = add_job(store)
    assert store.jobs.refuse(job.id, "capacity_exceeded", "it needs 99 GiB")
    row = store.jobs.get("a", job.id)
    assert (row.status, row.error["code"]) == ("failed", "capacity_exceeded")
    assert messages(store, job)[-1] == "it needs 99 GiB"
    assert not store.jobs.refuse(job.id, "capacity_exceeded", "again")
