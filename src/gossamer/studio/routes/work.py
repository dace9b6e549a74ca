"""Jobs that are no tuning run: comparisons, proofs and exports are asked for here."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from gossamer.errors import JobError, UnknownIdError
from gossamer.jobs.results.archive import archive
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import Tenant
from gossamer.serving.http.body import read_past
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.studio.body import read_object
from gossamer.studio.context import Studio, scope_of, settings_of, trainer
from gossamer.studio.new_work import ResultKind
from gossamer.studio.routes.jobs import answer_job, is_dry_run, repeat_of
from gossamer.studio.trials import shown_estimate
from gossamer.studio.view.work import comparison_object

router = APIRouter()


@router.post("/studio/api/comparisons")
async def compare(http: Request) -> JSONResponse:
    """Make a comparison of several methods, which is one job; with `dry_run=true`, say only what
    all its runs would take."""
    caller, studio = trainer(http), Studio.of(http)
    is_dry = is_dry_run(http)
    repeat, body = repeat_of(http), await read_object(http)
    if is_dry:
        return JSONResponse(await run_unless_disconnected(http.receive, _try_out(http, body)))
    limit = settings_of(http, caller).max_queued_jobs
    make = partial(studio.work.compare, caller.tenant, body, repeat, max_waiting=limit)
    return await answer_job(http, await studio.run(http, make), is_new=True)


@router.get("/studio/api/comparisons/{job_id}")
async def show_comparison(http: Request, job_id: str) -> JSONResponse:
    """Show the runs of a comparison: what each has come to, its losses, and its model."""
    caller, studio = trainer(http), Studio.of(http)

    def find() -> JSONResponse:
        job = studio.store.jobs.get(scope_of(caller), job_id)
        _require(job, "compare")
        return JSONResponse(comparison_object(job, studio.folder, studio.results.of(job)))

    return await studio.run(http, find)


@router.post("/studio/api/verifications")
async def verify(http: Request) -> JSONResponse:
    """Make a proof, as a job, that a result is served as it was trained."""
    return await _with_result(http, "verify")


@router.post("/studio/api/exports")
async def export(http: Request) -> JSONResponse:
    """Export a result, as a job: merged into its base model, or as a plain LoRA."""
    return await _with_result(http, "export")


@router.get("/studio/api/exports/{job_id}/content")
async def download(http: Request, job_id: str) -> StreamingResponse:
    """Send what a job has exported, as a zip archive."""
    caller, studio = trainer(http), Studio.of(http)
    base = studio.models.base

    def begin() -> tuple[str, Iterator[bytes]]:
        folder = _export_of(studio, scope_of(caller), job_id)
        return folder.name, archive(folder, folder.name, {base.source: base.name})

    name, pieces = await studio.run(http, begin)
    return StreamingResponse(
        pieces,
        media_type="application/octet-stream",
        headers={
            "Content-Disposition": f'attachment; filename="{name}.zip"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


@router.delete("/studio/api/exports/{job_id}")
async def remove(http: Request, job_id: str) -> JSONResponse:
    """Remove what a job has exported; the job stays, and so does the result it was made of."""
    caller, studio = trainer(http), Studio.of(http)
    await read_past(http)

    def delete() -> None:
        shutil.rmtree(_export_of(studio, scope_of(caller), job_id).parent)

    await studio.run(http, delete)
    return JSONResponse({"id": job_id, "object": "export", "deleted": True})


async def _try_out(http: Request, body: dict[str, Any]) -> dict[str, Any]:
    caller, studio = trainer(http), Studio.of(http)
    trial = await studio.run(http, partial(studio.work.try_out, caller.tenant, body))
    estimate = partial(studio.trials.of_comparison, trial)
    found = await studio.trial_threads.run(caller.tenant, estimate)
    return {
        "object": "comparison.estimate",
        "estimate": None if found is None else shown_estimate(found),
    }


async def _with_result(http: Request, kind: ResultKind) -> JSONResponse:
    caller, studio = trainer(http), Studio.of(http)
    repeat, body = repeat_of(http), await read_object(http)
    limit = settings_of(http, caller).max_queued_jobs
    make = partial(
        studio.work.with_result,
        kind,
        caller.tenant,
        scope_of(caller),
        body,
        repeat,
        max_waiting=limit,
    )
    return await answer_job(http, await studio.run(http, make), is_new=True)


def _export_of(studio: Studio, scope: Tenant, job_id: str) -> Path:
    """The folder of what a job of the caller's has exported; raises `UnknownIdError`."""
    job = studio.store.jobs.get(scope, job_id)
    found = (studio.results.of(job) or {}).get("export")
    if not found or not found["is_there"]:
        raise UnknownIdError(f"job {job.id} has no export", code="export_not_found")
    return studio.folder.export(job.id) / str(found["name"])


def _require(job: JobRecord, kind: str) -> None:
    if job.kind != kind:
        raise JobError(f"job {job.id} is of kind '{job.kind}', not '{kind}'", code="wrong_state")
