"""The kinds of work, by the kind of a job."""

from importlib import import_module

from gossamer.jobs.worker.task import JobTask, KindOfWork

_WORK = {
    "tune": "tune:TuneWork",
    "compare": "comparison.work:CompareWork",
    "verify": "verify:VerifyWork",
    "export": "export:ExportWork",
}


def work_of(task: JobTask) -> KindOfWork:
    """Make the work of a job; only what its kind needs is imported."""
    module, _, name = _WORK[task.record.kind].partition(":")
    found: type[KindOfWork] = getattr(import_module(f"{__package__}.{module}"), name)
    return found(task)
