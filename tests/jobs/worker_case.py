"""A job on the tiny model, ready for a worker that is started by hand."""

import json
import os
import subprocess
import sys

from runs import write_rows

from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.scratch import ScratchFile
from gossamer.jobs.ids import model_name
from gossamer.jobs.request import parse_request, request_digest, resolve
from gossamer.jobs.settings import SETTINGS_VARIABLE, JobsSettings
from gossamer.jobs.store.jobs import NewJob, Repeat
from gossamer.jobs.store.records import SupervisorRecord

FAR = 4e9
TRAINING = {
    "dtype": "float32",
    "max_steps": 12,
    "save_every": 3,
    "learning_rate": 3e-3,
    "batch_size": 2,
    "eval_split": 4,
    "eval_every": 4,
}


def quick_settings(tmp_path, **changes):
    """Settings in which everything happens soon."""
    values = {
        # As people give it; a worker works in another folder than the server was started in.
        "data_dir": os.path.relpath(tmp_path / "data"),
        "heartbeat_seconds": 0.2,
        "lease_seconds": 3.0,
        "stop_seconds": 30.0,
        "disk_floor_mib": 1,
        # A busy machine would never let an idle process run.
        "jobs_share": "full",
    }
    return JobsSettings(**{**values, **changes})


def supervise(store, owner="owner", lease_until=FAR):
    """Make somebody the supervisor who does nothing."""
    row = SupervisorRecord(
        owner=owner, place="here", pid=1, pid_started=1.0, lease_until=lease_until
    )
    assert store.supervisor.take(row, lambda _: True)


def add_rows(store, settings, tmp_path, tenant="a"):
    """Upload some rows."""
    content = write_rows(tmp_path / "rows.jsonl").read_bytes()
    with ScratchFile(settings.folder.scratch) as scratch:
        scratch.write(content)
        sha256 = BlobFolder(settings.folder).add(scratch)
    return store.files.create(
        tenant,
        purpose="fine-tune",
        filename="rows.jsonl",
        bytes=len(content),
        sha256=sha256,
        status="processed",
    )


def add_training(
    store, settings, model, tmp_path, tenant="a", *, estimate=True, method="lora", adapter=None,
    **training,
):  # fmt: skip
    """Queue a job that trains `model` on some rows; `adapter` holds settings of the method."""
    file = add_rows(store, settings, tmp_path, tenant)
    body = {
        "model": "tiny",
        "training_file": file.id,
        "adapter": {"rank": 4} if method == "lora" else {"method": method, **(adapter or {})},
        "training": {**TRAINING, **training},
    }
    resolved = resolve(parse_request(body), base=str(model), width=lambda: 48, seed=5)
    new = NewJob(
        tenant=tenant,
        model="tiny",
        training_file=file.id,
        name=model_name("tiny", tenant, None),
        seed=5,
        request=body,
        request_sha256=request_digest(body),
        resolved=resolved.as_record(),
        estimate={"memory": 2**20, "disk": 2**20} if estimate else None,
        metadata={},
        max_waiting=100,
    )
    job = store.jobs.create(new, Repeat())[0]
    settings.folder.job(job.id).root.mkdir(exist_ok=True)
    return job


def command(settings, job, attempt):
    """What the supervisor runs."""
    folder = settings.folder.job(job.id).root
    return [sys.executable, "-m", "gossamer.jobs.worker", str(folder), str(attempt)]


def start_worker(settings, job, attempt):
    """Start the process of an attempt, as the supervisor does."""
    return subprocess.Popen(
        command(settings, job, attempt),
        env={**os.environ, SETTINGS_VARIABLE: settings.model_dump_json(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def figures_of(run):
    """What a run computed, line by line, without times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    timing = ("time", "seconds", "tokens_per_second")
    return [
        {name: value for name, value in json.loads(line).items() if name not in timing}
        for line in lines
    ]
