"""Files and jobs for the tests of this room, made by the same calls as the server makes."""

from gossamer.jobs.ids import model_name
from gossamer.jobs.store.jobs import NewJob, Repeat

SHA = "ab" * 32


def add_file(store, tenant="a", *, sha256=SHA, status="processed", **changes):
    """A file that has been checked."""
    values = {"purpose": "fine-tune", "filename": "rows.jsonl", "bytes": 10, "status": status}
    return store.files.create(tenant, sha256=sha256, **{**values, **changes})


def new_job(file, tenant="a", **changes):
    """A job that reads `file`."""
    values = {
        "model": "tiny",
        "training_file": file.id,
        "name": model_name("tiny", tenant, None),
        "seed": 0,
        "request": {"model": "tiny"},
        "request_sha256": "0" * 64,
        "resolved": {},
        "metadata": {},
        "max_waiting": 100,
    }
    return NewJob(tenant=tenant, **{**values, **changes})


def add_job(store, tenant="a", *, file=None, repeat=None, **changes):
    """A queued job, with a file of its own unless one is given."""
    file = file or add_file(store, tenant)
    return store.jobs.create(new_job(file, tenant, **changes), repeat or Repeat())[0]


def messages(store, job):
    """The messages of a job's events, in order; their numbers must have no gap."""
    from gossamer.jobs.store.scoped import EVERYONE

    events = store.events.all_of(EVERYONE, job.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.message for event in events]
