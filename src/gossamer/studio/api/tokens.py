"""GET /studio/api/files/{id}/tokens: how long rows are, and what of them is learnt."""

from functools import partial
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gossamer.jobs.files.service import FileService
from gossamer.jobs.files.token_counts import TokenCounts
from gossamer.studio.context import Studio, scope_of, trainer


def tokens_router(files: FileService, model: Path) -> APIRouter:
    """Make the route; tokens are those of the base model in the folder `model`."""
    router = APIRouter(include_in_schema=False)
    counts = TokenCounts(files.blobs, model)

    async def tokens(http: Request, file_id: str) -> Response:
        """Count the tokens of the first rows of a file, and show some of them."""
        caller, studio = trainer(http), Studio.of(http)
        find = partial(studio.store.files.get, scope_of(caller), file_id)
        record = await studio.run(http, find)
        found = await studio.run(http, partial(counts.of, record))
        return JSONResponse({"object": "file.tokens", "file_id": record.id, **found})

    router.add_api_route(
        "/studio/api/files/{file_id}/tokens", tokens, methods=["GET"], response_model=None
    )
    return router
