"""The route that shows the replicas of a cluster, one by one."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from gossamer.cluster.replicas.remote_engine import RemoteEngine
from gossamer.serving.http.auth import require_admin
from gossamer.serving.http.context import Context


def status_router(engine: RemoteEngine) -> APIRouter:
    """Make the route GET /v1/cluster; with keys of tenants, it is for administrators."""
    router = APIRouter()

    @router.get("/v1/cluster")
    async def show_cluster(http: Request) -> dict[str, Any]:
        """Show what each replica has reported last, and how many requests pass this ingress."""
        if Context.of(http).settings.keys is not None:
            require_admin(http)
        return {
            "object": "cluster",
            "model": engine.model_name,
            "adapters": await run_in_threadpool(engine.count_adapters),
            "open_requests": engine.num_open,
            "replicas": engine.figures(),
        }

    return router
