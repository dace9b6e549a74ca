"""Files, uploads in parts, blobs, models and sessions."""

import time

import pytest
from job_helpers import SHA, add_file, add_job

from gossamer.errors import JobError, UnknownIdError
from gossamer.jobs.store.records import SessionRecord
from gossamer.jobs.store.scoped import EVERYONE, PageAsk


def test_files_are_listed_by_purpose_and_gone_once_deleted(store):
    first = add_file(store)
    second = add_file(store, purpose="evals")
    assert [f.id for f in store.files.page("a", PageAsk()).data] == [second.id, first.id]
    assert [f.id for f in store.files.page("a", PageAsk(), "evals").data] == [second.id]
    assert store.files.total_bytes("a") == 20
    store.files.delete("a", first.id)
    assert [f.id for f in store.files.page("a", PageAsk()).data] == [second.id]
    assert store.files.total_bytes("a") == 10
    with pytest.raises(UnknownIdError, match=f"there is no file '{first.id}'"):
        store.files.get("a", first.id)
    # A client that pages through a list and deletes what it has seen goes on.
    assert store.files.page("a", PageAsk(after=second.id, order="desc")).data == []


def test_a_file_of_an_unfinished_job_stays(store):
    file = add_file(store)
    job = add_job(store, file=file)
    with pytest.raises(JobError, match=f"used by job {job.id}") as refused:
        store.files.delete("a", file.id)
    assert refused.value.code == "file_in_use"
    store.jobs.cancel("a", job.id)
    store.files.delete("a", file.id)
    with pytest.raises(UnknownIdError):
        store.jobs.resume("a", job.id)


def test_files_expire_when_no_job_needs_them(store):
    now = time.time()
    kept, gone, used = (add_file(store, expires=now + d) for d in (100, -1, -1))
    add_job(store, file=used)
    assert [f.id for f in store.files.expired(now)] == [gone.id]
    assert kept.expires == now + 100


def test_the_same_bytes_are_one_blob_until_nobody_needs_them(store):
    one, two = add_file(store), add_file(store, "b")
    job = add_job(store, file=one)
    assert store.files.unused_blobs() == []
    store.files.delete("b", two.id)
    assert store.files.unused_blobs() == []
    assert not store.files.forget_blob(SHA)
    store.jobs.cancel("a", job.id)
    store.files.delete("a", one.id)
    assert store.files.unused_blobs() == [SHA]
    assert store.files.forget_blob(SHA)
    assert not store.files.blob_is_used(SHA)
    add_file(store)
    assert store.files.blob_is_used(SHA)


def test_unchecked_files_are_named_oldest_first(store):
    files = [add_file(store, status="uploaded") for _ in range(3)]
    add_file(store)
    assert [f.id for f in store.files.unchecked()] == [f.id for f in files]
    store.files.set_status(files[0].id, "error", "row 1: not JSON")
    assert store.files.get("a", files[0].id).status_details == "row 1: not JSON"
    assert len(store.files.unchecked()) == 2


def upload(store, **changes):
    values = {
        "purpose": "fine-tune",
        "filename": "rows.jsonl",
        "mime_type": "application/jsonl",
        "bytes": 7,
        "expires": time.time() + 3600,
    }
    return store.uploads.create("a", **{**values, **changes})


def test_parts_become_a_file(store):
    made = upload(store)
    parts = [store.uploads.add_part("a", made.id, bytes=size) for size in (3, 4)]
    assert [p.id for p in store.uploads.parts("a", made.id)] == [p.id for p in parts]
    assert store.uploads.living_parts() == {p.id for p in parts}
    file = store.uploads.complete("a", made.id, sha256=SHA)
    assert (file.bytes, file.filename, file.status) == (7, "rows.jsonl", "uploaded")
    done = store.uploads.get("a", made.id)
    assert (done.status, done.file_id) == ("completed", file.id)
    assert store.uploads.living_parts() == set()
    for change in (
        lambda: store.uploads.add_part("a", made.id, bytes=1),
        lambda: store.uploads.complete("a", made.id, sha256=SHA),
        lambda: store.uploads.cancel("a", made.id),
    ):
        with pytest.raises(JobError, match="is completed") as refused:
            change()
        assert refused.value.code == "wrong_state"


def test_uploads_end_by_themselves(store):
    old, new = upload(store, expires=time.time() - 1), upload(store)
    assert [u.id for u in store.uploads.expire(time.time())] == [old.id]
    assert store.uploads.get("a", old.id).status == "expired"
    assert store.uploads.cancel("a", new.id).status == "cancelled"
    with pytest.raises(UnknownIdError):
        store.uploads.parts("b", new.id)


@pytest.fixture
def model(store):
    """The name of a model of tenant a."""
    from test_job_attempts import JobOutcome, start, take

    take(store)
    job = add_job(store)
    assert store.attempts.finish(job.id, start(store, job), JobOutcome(digest="d", bytes=1))
    return job.name


def test_a_model_is_its_owners_and_those_who_were_permitted_it(store, model):
    assert store.models.may_use("a", model)
    assert not store.models.may_use("b", model)
    first = store.models.permit("a", model, ["b", "c"])
    assert store.models.permit("a", model, ["b"]) == first[:1]
    assert store.models.may_use("b", model)
    listed = store.models.permissions("a", model, PageAsk(order="asc"))
    assert {p.project for p in listed.data} == {"b", "c"}
    assert store.models.permissions("a", model, PageAsk(), "c").data[0].project == "c"
    store.models.forbid("a", model, first[0].id)
    assert not store.models.may_use("b", model)
    with pytest.raises(UnknownIdError):
        store.models.permit("b", model, ["b"])
    with pytest.raises(UnknownIdError):
        store.models.forbid("a", model, first[0].id)


def test_a_deleted_model_can_be_had_back_until_it_is_forgotten(store, model):
    store.models.permit("a", model, ["b"])
    store.models.delete("a", model)
    assert not store.models.may_use("b", model)
    assert store.models.page("a", PageAsk()).data == []
    with pytest.raises(UnknownIdError):
        store.models.get("a", model)
    assert store.models.restore("a", model).deleted is None
    assert store.models.may_use("b", model)
    store.models.forget(model)
    assert store.models.get("a", model).name == model, "only deleted ones are forgotten"
    store.models.delete("a", model)
    store.models.forget(model)
    with pytest.raises(UnknownIdError):
        store.models.restore(EVERYONE, model)
    assert store.models.all() == []


def test_sessions_end_with_their_time_and_their_key(store):
    def session(hash, key_id=None, expires=100.0):
        values = {"tenant": "a", "admin": key_id is None, "created": 0.0}
        made = SessionRecord(hash=hash, key_id=key_id, expires=expires, **values)
        store.sessions.create(made)
        return made

    one, two, old = session("1"), session("2", "key"), session("3", expires=10.0)
    assert store.sessions.find("1", 50.0) == one
    assert store.sessions.find("2", 50.0) == two
    assert store.sessions.find("3", 5.0) == old
    assert store.sessions.find("3", 50.0) is None
    store.sessions.end_of_key("key")
    assert store.sessions.find("2", 50.0) is None
    store.sessions.end_expired(50.0)
    assert store.sessions.find("3", 5.0) is None
    store.sessions.end("1")
    assert store.sessions.find("1", 50.0) is None
