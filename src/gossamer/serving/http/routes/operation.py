"""Routes for those who run the server: GET /health, /ping, /metrics and /version."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from gossamer.serving.http.auth import require_admin
from gossamer.serving.http.context import Context
from gossamer.version import VERSION

router = APIRouter()


@router.get("/ping")
async def ping(http: Request) -> JSONResponse:
    """Answer as /health does, under the name that some load balancers ask for."""
    return await health(http)


@router.get("/health")
async def health(http: Request) -> JSONResponse:
    """Answer 200 while the engine runs, 503 once it has stopped; needs no key."""
    if Context.of(http).engine.healthy():
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "stopped"}, status_code=503)


@router.get("/metrics")
async def metrics(http: Request) -> Response:
    """Give the metrics in Prometheus' text format; with keys of tenants, to administrators only."""
    if Context.of(http).settings.keys is not None:
        require_admin(http)
    text = await run_in_threadpool(Context.of(http).metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/version")
async def version() -> JSONResponse:
    """Give the version of Gossamer."""
    return JSONResponse({"version": VERSION})
