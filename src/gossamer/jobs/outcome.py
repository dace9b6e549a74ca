"""How a job ended, on the disk: `outcome.json`, written before the database is told.

The end of a job, step by step. A crash between any two leaves what the next try begins with:

1. The run publishes its adapter, and writes `run.yaml` with the result, last of all. Before that,
   the next worker resumes the run; after it, the next worker goes on with step 2.
2. The figures become a blob, under the digest of their bytes: kept again, it is the same one. Until
   step 4 nothing refers to it, and after some time it may be swept; so who goes on keeps it again.
3. `outcome.json` is written, flushed and renamed. From now on the job is decided: the worker or
   supervisor that finds the file repeats the steps below and no other.
4. One transaction ends the job, with its model and the file of figures, if the job still runs that
   attempt (`store.attempts.finish`).
5. The link in `served/` is renamed into its place. The supervisor makes those that are missing.
"""

import json
import os
from dataclasses import asdict
from typing import Any

from gossamer.adapters.layout import CONFIG_FILE
from gossamer.files import flush, write_whole
from gossamer.jobs.data_folder import DataFolder, JobPaths
from gossamer.jobs.figures import NAME, figures
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.scratch import ScratchFile
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import JobOutcome, ResultFile
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.training.outputs.metrics import read_metrics


def keep_figures(folder: DataFolder, job: JobPaths) -> ResultFile:
    """Keep the table of a finished run's metrics as a blob; raises `StorageError`."""
    content = figures(read_metrics(job.run))
    with ScratchFile(folder.scratch) as file:
        file.write(content)
        sha256 = BlobFolder(folder).add(file)
    return ResultFile(filename=NAME, bytes=len(content), sha256=sha256)


def finish(store: JobStore, folder: DataFolder, job_id: str, attempt: int) -> bool:
    """Do what is left to do of a decided job; False if it does not run that attempt any more."""
    job = folder.job(job_id)
    outcome = read_outcome(job)
    assert outcome is not None
    if outcome.result_file is not None:
        keep_figures(folder, job)
    if not store.attempts.finish(job_id, attempt, outcome):
        return False
    if outcome.result_file is not None:
        if not folder.blob(outcome.result_file.sha256).exists():
            # Swept just before its row came.
            keep_figures(folder, job)
        make_link(folder, job_id, store.jobs.get(EVERYONE, job_id).name)
    return True


def write_outcome(job: JobPaths, outcome: JobOutcome) -> None:
    """Decide a job; all or nothing."""
    write_whole(job.outcome, json.dumps(asdict(outcome), indent=1) + "\n")
    # Half a file of a worker that was killed.
    for leftover in job.root.glob(f".{job.outcome.name}.*"):
        leftover.unlink(missing_ok=True)


def read_outcome(job: JobPaths) -> JobOutcome | None:
    """Return how the job ended; None: it is not decided."""
    try:
        values: dict[str, Any] = json.loads(job.outcome.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    file = values.pop("result_file")
    return JobOutcome(**values, result_file=ResultFile(**file) if file else None)


def make_link(folder: DataFolder, job_id: str, model: str) -> bool:
    """Let the server find the adapter of a job as `model`; False if the job left no adapter.

    The link is made beside its place and renamed, so a reader sees a whole one or none.
    """
    adapter = folder.job(job_id).adapter(model)
    if not (adapter / CONFIG_FILE).is_file():
        return False
    target = os.path.relpath(adapter, folder.served)
    link = folder.link(model)
    if link.is_symlink() and os.readlink(link) == target:
        return True
    scratch = folder.served / f".{model}.{os.getpid()}.tmp"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, link)
    flush(folder.served)
    return True


def remove_link(folder: DataFolder, model: str) -> None:
    """Hide a model from the server."""
    folder.link(model).unlink(missing_ok=True)
    flush(folder.served)
