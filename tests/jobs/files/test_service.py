"""Files and uploads of tenants: bytes once, rows for each, quotas, parts, what is removed when."""

import hashlib
import os
import time

import pytest
from forms import KIND, ROWS, add, form, received
from job_helpers import add_job

from gossamer.errors import JobError, UnknownIdError
from gossamer.jobs.files.scratch import ScratchFile, remove_abandoned
from gossamer.jobs.files.service import NewUpload
from gossamer.jobs.files.sweeper import Sweeper


def blobs(settings):
    return [path for path in settings.folder.blobs.glob("*/*") if path.is_file()]


def refusal(call, *arguments, **options):
    with pytest.raises(JobError) as caught:
        call(*arguments, **options)
    return caught.value


def test_the_same_bytes_are_kept_once_for_files_of_their_own(files, settings):
    one, two = add(files), add(files, tenant="b", name="other.jsonl")
    assert one.id != two.id
    assert one.sha256 == two.sha256 == hashlib.sha256(ROWS).hexdigest()
    assert (one.filename, two.filename, one.bytes) == ("rows.jsonl", "other.jsonl", len(ROWS))
    (blob,) = blobs(settings)
    assert blob.read_bytes() == ROWS
    assert blob.stat().st_mode & 0o777 == 0o600
    assert not list(settings.folder.scratch.iterdir())
    record, path = files.content("a", one.id)
    assert (record, path) == (one, blob)
    with pytest.raises(UnknownIdError):
        files.content("b", one.id)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([], "invalid_value"),
        ([("purpose", "batch")], "unsupported_purpose"),
        ([("purpose", "fine-tune"), ("colour", "red")], "unsupported_parameter"),
        ([("purpose", "evals"), ("expires_after[seconds]", "7200")], "invalid_value"),
        ([("purpose", "evals"), ("expires_after[anchor]", "created_at")], "invalid_value"),
        (
            [
                ("purpose", "evals"),
                ("expires_after[anchor]", "created_at"),
                ("expires_after[seconds]", "3599"),
            ],
            "invalid_value",
        ),
    ],
)
def test_wrong_fields_are_named_and_leave_nothing(files, store, settings, fields, code):
    assert refusal(add, files, fields=fields).code == code
    assert not blobs(settings)
    assert not list(settings.folder.scratch.iterdir())
    assert store.files.unchecked() == []


def test_an_empty_file_and_a_full_disk_are_refused(files, settings, monkeypatch):
    assert refusal(add, files, b"").code == "invalid_file"

    class Full:
        free, total = 2**20, 2**40

    monkeypatch.setattr("gossamer.jobs.files.service.shutil.disk_usage", lambda path: Full)
    error = refusal(add, files)
    assert error.code == "insufficient_disk"
    assert "1 MiB free" in str(error)


def test_the_storage_of_a_tenant_is_bounded(files):
    add(files, max_total=len(ROWS))
    assert refusal(add, files, max_total=2 * len(ROWS) - 1).code == "storage_exceeded"
    add(files, max_total=2 * len(ROWS))
    add(files, tenant="b", max_total=len(ROWS))


def test_bytes_go_with_their_last_file(files, store, settings):
    sweeper = Sweeper(store, files, settings)
    one, two = add(files), add(files, tenant="b")
    store.files.delete("a", one.id)
    sweeper.sweep()
    assert len(blobs(settings)) == 1
    store.files.delete("b", two.id)
    sweeper.sweep()
    assert not blobs(settings)
    again = add(files)
    assert files.content("a", again.id)[1].read_bytes() == ROWS


def test_a_file_expires_unless_a_job_needs_it(files, store, settings, monkeypatch):
    soon = [("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600")]
    file = add(files, fields=[("purpose", "fine-tune"), *soon])
    assert file.expires == pytest.approx(time.time() + 3600, abs=60)
    store.files.set_status(file.id, "processed")
    job = add_job(store, "a", file=file)
    sweeper = Sweeper(store, files, settings)
    later = time.time() + 4000
    monkeypatch.setattr("gossamer.jobs.files.sweeper.time.time", lambda: later)
    sweeper.sweep()
    assert store.files.get("a", file.id)
    store.jobs.cancel("a", job.id)
    sweeper.sweep()
    with pytest.raises(UnknownIdError):
        store.files.get("a", file.id)
    assert not blobs(settings)


def test_what_a_crash_left_is_mended_at_the_next_start(files, store, settings):
    kept = add(files)
    files.blobs.step_aside(kept.sha256)  # a sweeper died before it asked again
    orphan = b"no row ever came"
    with ScratchFile(settings.folder.scratch) as file:
        file.write(orphan)
        files.blobs.add(file)
    old = time.time() - 7200
    os.utime(files.blobs.path(hashlib.sha256(orphan).hexdigest()), (old, old))
    half = settings.folder.scratch / "half-dead"
    half.write_bytes(b"x")
    with ScratchFile(settings.folder.scratch) as living:
        living.write(b"still coming")
        Sweeper(store, files, settings).begin()
        assert [path.name for path in settings.folder.scratch.iterdir()] == [living.path.name]
    assert [path.read_bytes() for path in blobs(settings)] == [ROWS]
    assert remove_abandoned(settings.folder.scratch) == 0


def test_bytes_that_come_back_while_they_are_swept_stay(files, store, settings, monkeypatch):
    """An upload of the same bytes between the two looks of the sweeper."""
    first = add(files)
    store.files.delete("a", first.id)
    step_aside, came = files.blobs.step_aside, []

    def with_an_upload(sha256):
        found = step_aside(sha256)
        came.append(add(files))
        return found

    monkeypatch.setattr(files.blobs, "step_aside", with_an_upload)
    Sweeper(store, files, settings).sweep()
    assert files.content("a", came[0].id)[1].read_bytes() == ROWS


# Uploads in parts.


def begin(files, content, **changes):
    values = {"filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    return files.begin("a", NewUpload(bytes=len(content), **{**values, **changes}))


def send_part(files, upload, content):
    body = form(content, field="data", fields=())
    receiver = files.receive_part(KIND, len(body))
    return files.add_part("a", upload.id, received(receiver, body, 4096))


def test_parts_are_joined_in_the_order_that_is_asked_for(files, settings):
    content = ROWS * 3
    upload = begin(files, content)
    second, first = send_part(files, upload, content[50:]), send_part(files, upload, content[:50])
    md5 = hashlib.md5(content).hexdigest()
    wrong = refusal(files.complete, "a", upload.id, [second.id, first.id], md5)
    assert "send them again" in str(wrong)
    done, file = files.complete("a", upload.id, [first.id, second.id], md5.upper())
    assert (done.status, done.file_id) == ("completed", file.id)
    assert files.content("a", file.id)[1].read_bytes() == content
    assert not list(settings.folder.scratch.iterdir())
    assert refusal(files.complete, "a", upload.id, [first.id, second.id]).code == "wrong_state"
    assert refusal(send_part, files, upload, b"x").code == "wrong_state"


def test_parts_must_have_the_bytes_of_the_upload(files, settings):
    upload = begin(files, ROWS)
    part = send_part(files, upload, ROWS[:-1])
    for ids in ([part.id], [part.id, part.id], ["part_x"]):
        assert refusal(files.complete, "a", upload.id, ids).code in (
            "invalid_file",
            "invalid_value",
        )
    assert refusal(send_part, files, upload, ROWS + b"x").code == "invalid_file"
    send_part(files, upload, ROWS)
    assert refusal(send_part, files, upload, ROWS).code == "invalid_file"
    with pytest.raises(UnknownIdError):
        files.cancel("b", upload.id)
    assert files.cancel("a", upload.id).status == "cancelled"
    assert not list(settings.folder.scratch.iterdir())


def test_an_upload_ends_after_an_hour_and_its_parts_go(files, store, settings, monkeypatch):
    upload = begin(files, ROWS)
    send_part(files, upload, ROWS)
    later = time.time() + 3700
    monkeypatch.setattr("gossamer.jobs.files.sweeper.time.time", lambda: later)
    Sweeper(store, files, settings).sweep()
    assert store.uploads.get("a", upload.id).status == "expired"
    assert not list(settings.folder.scratch.iterdir())


@pytest.mark.parametrize("size", [0, -1, 2**60])
def test_the_bytes_of_an_upload_are_bounded(files, size):
    new = NewUpload(bytes=size, filename="a.jsonl", mime_type="x", purpose="fine-tune")
    assert refusal(files.begin, "a", new).code == "file_too_large"
