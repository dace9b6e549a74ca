"""What tests of the routes of jobs do again and again."""

import time

from gossamer.jobs.data_folder import run_place
from gossamer.jobs.store.tables import ModelRow

PAIR = b'{"prompt": "a", "completion": "b"}\n'
JOBS = "/v1/fine_tuning/jobs"


def wait(client, file_id):
    deadline = time.monotonic() + 60
    while client.get(f"/v1/files/{file_id}").json()["status"] == "uploaded":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def create(client, file_id, **fields):
    headers = fields.pop("headers", {})
    body = {"model": "tiny", "training_file": file_id, **fields}
    return client.post(JOBS, json=body, headers=headers)


def add_model(store, job_id, name):
    """A model as the end of a job makes it."""
    with store.database.write() as session:
        session.add(
            ModelRow(
                name=name,
                job_id=job_id,
                folder=run_place(job_id),
                tenant="alice",
                digest="d",
                bytes=1,
                created=1.0,
            )
        )
