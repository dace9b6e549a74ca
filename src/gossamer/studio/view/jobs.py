"""OpenAI's objects of fine-tuning: jobs and their checkpoints, with our additions."""

import time
from typing import Any

from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import JobRecord, ModelRecord
from gossamer.studio.trials import shown_estimate
from gossamer.studio.view.checkpoints import checkpoint_name
from gossamer.studio.view.lines import Line, RunLines, metrics_at, progress_of
from gossamer.studio.view.work import JobResults, work_fields

Shown = dict[str, Any]

ENDED = frozenset({"succeeded", "failed", "cancelled"})


def shown_jobs(
    store: JobStore, lines: RunLines, results: JobResults, jobs: list[JobRecord]
) -> list[Shown]:
    """Show jobs with their metadata and models; waits for the database and reads files."""
    ids = [job.id for job in jobs]
    metadata, models = store.jobs.metadata(ids), store.models.of_jobs(ids)
    return [
        job_object(
            job,
            lines.last_of(job.id),
            metadata.get(job.id, {}),
            models.get(job.id),
            results.of(job),
        )
        for job in jobs
    ]


def job_object(
    job: JobRecord,
    lines: list[Line],
    metadata: dict[str, str],
    model: ModelRecord | None = None,
    result: Shown | None = None,
) -> Shown:
    """Show a job; `lines` are its metrics so far, `model` is what it has made, and `result` what it
    has found or exported."""
    resolved = job.resolved
    progress = progress_of(job, lines)
    left = progress["seconds_left"]
    kind = resolved.get("method_type", "supervised")
    numbers = resolved.get("hyperparameters", {})
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created),
        "error": job.error,
        "fine_tuned_model": job.name if _is_served(job, result) else None,
        "finished_at": None if job.finished is None else int(job.finished),
        "hyperparameters": numbers,
        "model": job.model,
        "organization_id": job.tenant,
        "result_files": [job.result_file] if job.result_file else [],
        "seed": job.seed,
        "status": job.status,
        "trained_tokens": job.trained_tokens,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "estimated_finish": None if left is None else int(time.time() + left),
        "integrations": [],
        "metadata": metadata,
        "method": {"type": kind, kind: {"hyperparameters": numbers}},
        "adapter": {**resolved.get("adapter", {}), **_weights(job)},
        "training": resolved.get("training", {}),
        "progress": progress,
        "estimate": None if job.estimate is None else shown_estimate(job.estimate),
        "resumed_from": job.saved_step if job.attempt > 1 and job.saved_step else None,
        "attempt": job.attempt,
        "suffix": job.request.get("suffix"),
        "alias": None if model is None or model.deleted is not None else model.alias,
        "deleted_at": None if model is None or model.deleted is None else int(model.deleted),
        **work_fields(job, result),
    }


def _is_served(job: JobRecord, result: Shown | None) -> bool:
    """Whether the job's own name is that of a model; some leave an export instead, or no result."""
    is_done = job.kind == "tune" and job.status == "succeeded"
    return is_done and "export" not in (result or {})


def _weights(job: JobRecord) -> Shown:
    """How many weights learn and what they take on the disk, where that is known."""
    estimate = job.estimate or {}
    names = {"trainable": "trainable", "bytes": "adapter_bytes"}
    return {ours: estimate[theirs] for ours, theirs in names.items() if theirs in estimate}


def checkpoint_object(job: JobRecord, step: int, created: float, lines: list[Line]) -> Shown:
    """Show the checkpoint of a step."""
    return {
        "id": f"ftckpt_{job.id.removeprefix('ftjob-')}{step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(created),
        "fine_tuning_job_id": job.id,
        "fine_tuned_model_checkpoint": checkpoint_name(job.name, step),
        "step_number": step,
        "metrics": metrics_at(lines, step),
    }


def final_checkpoint(job: JobRecord, lines: list[Line]) -> Shown:
    """Show the model of a job that has succeeded as its last checkpoint."""
    created = job.finished or job.created
    step = max((line["step"] for line in lines), default=job.steps or 0)
    shown = checkpoint_object(job, step, created, lines)
    return {**shown, "fine_tuned_model_checkpoint": job.name}
