"""How a job ended, on the disk: `outcome.json`, written before the database is told.

The end of a job, step by step. A crash between any two leaves what the next try begins with:

1. The run publishes its adapter, and writes `run.yaml` with the result, last of all. Before that,
   the next worker resumes the run; after it, the next worker goes on with step 2.
2. The figures become a blob, under the digest of their bytes: kept again, it is the same one. Until
   step 5 nothing refers to it, and after some time it may be swept; so who goes on keeps it again.
3. `outcome.json` is written, flushed and renamed. From now on the job is decided: the worker or
   supervisor that finds the file repeats the steps below and no other.
4. The link in `served/` is renamed into its place, so that who hears of the model can ask it. If
   the next step ends otherwise, the link goes again.
5. One transaction ends the job, with its model and the file of figures, if the job still runs that
   attempt (`store.attempts.finish`). The supervisor makes links that are missing all the same.
"""

import json
from dataclasses import asdict
from typing import Any

from gossamer.files import write_whole
from gossamer.jobs.data_folder import DataFolder, JobPaths
from gossamer.jobs.figures import NAME, figures
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.scratch import ScratchFile
from gossamer.jobs.results import links
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import JobOutcome, OutcomeModel, ResultFile
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
    row = store.jobs.get(EVERYONE, job_id)
    if row.status != "running" or row.attempt != attempt:
        return False
    models = outcome.served(row.id, row.name)
    if outcome.result_file is not None:
        keep_figures(folder, job)
    for model in models:
        links.show(folder, model.name, model.folder)
    try:
        is_done = store.attempts.finish(job_id, attempt, outcome)
    except BaseException:
        # If it was done after all, the supervisor sees that the links are missing.
        for model in models:
            links.remove(folder, model.name)
        raise
    if not is_done:
        for model in models:
            links.withdraw(store, folder, model.name)
        return False
    file = outcome.result_file
    if file is not None and not folder.blob(file.sha256).exists():
        # Swept just before its row came.
        keep_figures(folder, job)
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
    file, models = values.pop("result_file"), values.pop("models", [])
    return JobOutcome(
        **values,
        models=tuple(OutcomeModel(**model) for model in models),
        result_file=ResultFile(**file) if file else None,
    )
