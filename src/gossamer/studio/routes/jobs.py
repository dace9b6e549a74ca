"""Fine-tuning jobs: made, listed, shown, stopped and continued."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gossamer.errors import cut
from gossamer.jobs.store.jobs import Repeat
from gossamer.jobs.store.kinds import JOB_KINDS
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import Tenant
from gossamer.serving.http.body import read_past
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.errors import ApiError
from gossamer.studio.body import read_object
from gossamer.studio.context import Studio, scope_of, settings_of, trainer
from gossamer.studio.routes.lists import as_list, metadata_filter, page_ask
from gossamer.studio.trials import shown_estimate
from gossamer.studio.view.jobs import shown_jobs

router = APIRouter()

DEFAULT_LIMIT = 20
MAX_KEY = 255


@router.post("/v1/fine_tuning/jobs")
async def create_job(http: Request) -> JSONResponse:
    """Make a job, which waits for its turn; with `dry_run=true`, say only what it would be."""
    caller, studio = trainer(http), Studio.of(http)
    is_dry = is_dry_run(http)
    repeat = repeat_of(http)
    body = await read_object(http)
    if is_dry:
        return JSONResponse(await run_unless_disconnected(http.receive, _try_out(http, body)))
    limit = settings_of(http, caller).max_queued_jobs
    create = partial(studio.maker.create, caller.tenant, body, repeat, max_waiting=limit)
    return await answer_job(http, await studio.run(http, create), is_new=True)


@router.get("/v1/fine_tuning/jobs")
async def list_jobs(http: Request) -> JSONResponse:
    """List jobs, the newest first; `limit`, `after` and `metadata[key]=value` choose.

    Tuning runs alone, unless `kind` is compare, verify, export or all.
    """
    caller, studio = trainer(http), Studio.of(http)
    ask = page_ask(http, limit=DEFAULT_LIMIT, more=("metadata", "kind"))
    pairs, without = metadata_filter(http)
    kinds = _kinds(http)

    def find() -> dict[str, Any]:
        page = studio.store.jobs.page(
            scope_of(caller), ask, metadata=pairs, without_metadata=without, kinds=kinds
        )
        return as_list(_shown(studio, page.data), has_more=page.has_more)

    return JSONResponse(await studio.run(http, find))


@router.get("/v1/fine_tuning/jobs/{job_id}")
async def show_job(http: Request, job_id: str) -> JSONResponse:
    """Show a job: its status, how far it is, what it was asked for and what that means."""
    caller, studio = trainer(http), Studio.of(http)
    find = partial(studio.store.jobs.get, scope_of(caller), job_id)
    return await answer_job(http, await studio.run(http, find))


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel")
async def cancel_job(http: Request, job_id: str) -> JSONResponse:
    """End a job; what it has learnt can be had back for a while with `resume`."""
    return await _act(http, job_id, Studio.of(http).store.jobs.cancel)


@router.post("/v1/fine_tuning/jobs/{job_id}/pause")
async def pause_job(http: Request, job_id: str) -> JSONResponse:
    """Stop a job after its step, so that it can go on exactly there."""
    return await _act(http, job_id, Studio.of(http).store.jobs.pause)


@router.post("/v1/fine_tuning/jobs/{job_id}/resume")
async def resume_job(http: Request, job_id: str) -> JSONResponse:
    """Let a paused job go on, or one that was cancelled by mistake."""
    return await _act(http, job_id, Studio.of(http).store.jobs.resume)


async def _try_out(http: Request, body: dict[str, Any]) -> dict[str, Any]:
    caller, studio = trainer(http), Studio.of(http)
    work = partial(studio.maker.try_out, caller.tenant, body)
    answer, trial = await studio.run(http, work)
    # Each takes a process of its own for some seconds: those that wait go with their client.
    found = await studio.trial_threads.run(caller.tenant, partial(studio.trials.of, trial))
    if found is not None:
        answer["estimate"] |= shown_estimate(found)
        answer["adapter"] |= {"trainable": found["trainable"], "bytes": found["adapter_bytes"]}
    return answer


async def _act(http: Request, job_id: str, act: Callable[[Tenant, str], JobRecord]) -> JSONResponse:
    caller, studio = trainer(http), Studio.of(http)
    await read_past(http)
    job = await studio.run(http, partial(act, scope_of(caller), job_id))
    return await answer_job(http, job, is_new=True)


async def answer_job(http: Request, job: JobRecord, *, is_new: bool = False) -> JSONResponse:
    """Answer with a job; of one that `is_new` in any way those are told who start jobs."""
    studio = Studio.of(http)
    if is_new:
        studio.wake()
    return JSONResponse((await studio.run(http, lambda: _shown(studio, [job])))[0])


def _shown(studio: Studio, jobs: list[JobRecord]) -> list[dict[str, Any]]:
    return shown_jobs(studio.store, studio.lines, studio.results, jobs)


def _kinds(http: Request) -> tuple[str, ...]:
    """The kinds that are asked for; none: all."""
    kind = http.query_params.get("kind", "tune")
    if kind != "all" and kind not in JOB_KINDS:
        message = f"'kind' = '{cut(kind)}' must be one of all, {', '.join(JOB_KINDS)}"
        raise ApiError(400, message, code="invalid_value", param="kind")
    return () if kind == "all" else (kind,)


def is_dry_run(http: Request) -> bool:
    """Whether a job is only to be tried out; raises `ApiError` 400."""
    for name in http.query_params:
        if name != "dry_run":
            message = f"unknown parameter '{cut(name)}'; known: dry_run"
            raise ApiError(400, message, code="unknown_parameter", param=cut(name))
    value = http.query_params.get("dry_run", "false")
    if value not in ("true", "false"):
        message = f"'dry_run' = '{cut(value)}' must be true or false"
        raise ApiError(400, message, code="invalid_value", param="dry_run")
    return value == "true"


def repeat_of(http: Request) -> Repeat:
    """Return what tells that a request was sent before; raises `ApiError` 400."""
    key = http.headers.get("idempotency-key")
    if key is not None and (not 0 < len(key) <= MAX_KEY or not key.isprintable()):
        raise ApiError(
            400,
            f"the header Idempotency-Key must have 1 to {MAX_KEY} printable characters",
            code="invalid_value",
        )
    # OpenAI's client sends no key, but tells that it tries again.
    retries = http.headers.get("x-stainless-retry-count", "0")
    return Repeat(key=key, is_retry=re.fullmatch(r"0*[1-9][0-9]{0,5}", retries) is not None)
