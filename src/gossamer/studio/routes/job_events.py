"""The events and checkpoints of a job: pages, the newest first, or a stream, the oldest first."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from gossamer.errors import UnknownIdError, cut
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import PageAsk, Tenant
from gossamer.serving.http.context import Context
from gossamer.studio.context import Studio, scope_of, trainer
from gossamer.studio.routes.lists import as_list, page_ask, wrong_value
from gossamer.studio.view.checkpoints import publish_checkpoints, retire_checkpoints
from gossamer.studio.view.events import Cursor, PlacedEvent, merged
from gossamer.studio.view.jobs import ENDED, checkpoint_object, final_checkpoint

router = APIRouter()

EVENTS_LIMIT = 20
EVENT_TYPES = ("message", "metrics")
CHECKPOINTS_LIMIT = 10
LOOK_SECONDS = 0.5
ALIVE_SECONDS = 15.0
"""After this long a silence a comment is sent: proxies close connections on which nothing comes."""


@router.get("/v1/fine_tuning/jobs/{job_id}/events")
async def list_events(http: Request, job_id: str) -> Response:
    """List what happened to a job, with the metrics of its steps, or with `type=message` without;
    with `Accept: text/event-stream` the events come as they happen, after `Last-Event-ID` if that
    is given."""
    caller, studio = trainer(http), Studio.of(http)
    scope = scope_of(caller)
    if "text/event-stream" in http.headers.get("accept", ""):
        return await _stream(http, scope, job_id)
    ask = page_ask(http, limit=EVENTS_LIMIT, more=("type",))
    kind = http.query_params.get("type")
    if kind not in (None, *EVENT_TYPES):
        raise wrong_value("type", str(kind), f"one of {', '.join(EVENT_TYPES)}")
    found = await studio.run(http, partial(_events, studio, scope, job_id, Cursor()))
    shown = [event.shown for event in found[1] if kind in (None, event.shown["type"])]
    return JSONResponse(_page(shown, ask, "event"))


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
async def list_checkpoints(http: Request, job_id: str) -> JSONResponse:
    """List the checkpoints of a job that can be asked like any model."""
    caller, studio = trainer(http), Studio.of(http)
    ask = page_ask(http, limit=CHECKPOINTS_LIMIT)
    found = await studio.run(http, partial(_checkpoints, studio, scope_of(caller), job_id))
    return JSONResponse(_page(found, ask, "checkpoint"))


def _events(
    studio: Studio, scope: Tenant, job_id: str, since: Cursor
) -> tuple[JobRecord, list[PlacedEvent]]:
    # The job first: what ends it has told its last event by then.
    job = studio.store.jobs.get(scope, job_id)
    rows = studio.store.events.all_of(scope, job_id)
    return job, merged(job, rows, studio.lines.of(job_id), since)


def _checkpoints(studio: Studio, scope: Tenant, job_id: str) -> list[dict[str, Any]]:
    """All checkpoints that are there, the oldest first."""
    job = studio.store.jobs.get(scope, job_id)
    lines = studio.lines.of(job_id)
    if job.kind != "tune" or "export" in (studio.results.of(job) or {}):
        # Nothing of it is served by the job's own name.
        return []
    if job.status == "succeeded":
        # Those on the way are removed at the end, and the model is the last.
        retire_checkpoints(studio.folder, job.name)
        return [final_checkpoint(job, lines)]
    return [
        checkpoint_object(job, step, created, lines)
        for step, created in sorted(publish_checkpoints(studio.folder, job).items())
    ]


def _page(entries: list[dict[str, Any]], ask: PageAsk, what: str) -> dict[str, Any]:
    """The page of `entries`, which are the oldest first, that was asked for."""
    if ask.order == "desc":
        entries = entries[::-1]
    if ask.after is not None:
        places = [n for n, entry in enumerate(entries) if entry["id"] == ask.after]
        if not places:
            raise UnknownIdError(
                f"there is no {what} '{cut(ask.after)}'", code=f"{what}_not_found", param="after"
            )
        entries = entries[places[0] + 1 :]
    return as_list(entries[: ask.limit], has_more=len(entries) > ask.limit)


async def _stream(http: Request, scope: Tenant, job_id: str) -> Response:
    studio = Studio.of(http)
    since = Cursor.parse(http.headers.get("last-event-id", "")) or Cursor()
    job, events = await studio.run(http, partial(_events, studio, scope, job_id, since))
    if job.status in ENDED and not events:
        # A browser that has seen it all would otherwise ask again for ever.
        return Response(status_code=204)
    return StreamingResponse(
        _frames(http, scope, job, events, since),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _frames(
    http: Request, scope: Tenant, job: JobRecord, events: list[PlacedEvent], since: Cursor
) -> AsyncIterator[bytes]:
    studio, engine = Studio.of(http), Context.of(http).engine
    quiet = 0.0
    while True:
        for event in events:
            since, quiet = event.cursor, 0.0
            yield _frame(event)
        if (job.status in ENDED and not events) or not engine.healthy():
            return
        if quiet >= ALIVE_SECONDS:
            quiet = 0.0
            yield b": alive\n\n"
        await asyncio.sleep(LOOK_SECONDS)
        quiet += LOOK_SECONDS
        job, events = await studio.run(http, partial(_events, studio, scope, job.id, since))


def _frame(event: PlacedEvent) -> bytes:
    data = json.dumps(event.shown, ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.cursor}\ndata: {data}\n\n".encode()
