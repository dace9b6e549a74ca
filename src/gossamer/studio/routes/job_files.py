"""What lies in the folder of a job and can be looked at: its samples, and its log."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gossamer.jobs.run_files import log_tail, samples_of
from gossamer.serving.http.errors import ApiError
from gossamer.studio.context import Studio, scope_of, trainer
from gossamer.studio.view.work import comparison_samples

router = APIRouter()

_NO_SAMPLES: dict[str, Any] = {"prompts": [], "answers": []}


@router.get("/v1/fine_tuning/jobs/{job_id}/samples")
async def show_samples(http: Request, job_id: str) -> JSONResponse:
    """Show what the model has answered to the same held-out prompts at each evaluation of a job,
    as far as it is; of a comparison, what the base model and each run's have."""
    caller, studio = trainer(http), Studio.of(http)
    job = await studio.run(http, partial(studio.store.jobs.get, scope_of(caller), job_id))
    if job.kind == "compare":
        find: Callable[[], dict[str, Any] | None] = partial(comparison_samples, job, studio.folder)
    else:
        find = partial(samples_of, studio.folder.job(job.id).run)
    found = await studio.run(http, find)
    return JSONResponse({"object": "fine_tuning.job.samples", **(found or _NO_SAMPLES)})


@router.get("/v1/fine_tuning/jobs/{job_id}/log")
async def show_log(http: Request, job_id: str) -> JSONResponse:
    """Show administrators the end of what the workers of a job have printed, 64 KiB at most; for
    all others there is no such thing."""
    caller, studio = trainer(http), Studio.of(http)
    job = await studio.run(http, partial(studio.store.jobs.get, scope_of(caller), job_id))
    if not caller.is_admin:
        # It tells paths of this machine.
        raise ApiError(404, f"job {job_id} has no log", code="log_not_found")
    text, is_whole = await studio.run(http, partial(log_tail, studio.folder.job(job.id).log))
    return JSONResponse({"object": "fine_tuning.job.log", "text": text, "is_whole": is_whole})
