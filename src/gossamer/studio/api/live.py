"""GET /studio/api/live: one stream of all that changes, for the topics that a page looks at."""

import re

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from gossamer.errors import cut
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.studio.api.guests import require_caller
from gossamer.studio.api.live_stream import JobNews, LiveStream
from gossamer.studio.api.watch import ServerWatch

TOPIC = re.compile(r"jobs|adapters|server|job:[\w-]{1,64}")
MAX_TOPICS = 20


def live_router(news: JobNews, watch: ServerWatch) -> APIRouter:
    """Make the route of the stream, which tells what `news` and `watch` know."""
    router = APIRouter(include_in_schema=False)

    async def live(http: Request, topics: str = "jobs") -> Response:
        """Stream what changes."""
        caller = require_caller(http)
        wanted = [each for each in topics.split(",") if each]
        for each in wanted:
            if not TOPIC.fullmatch(each):
                raise ApiError(400, f"unknown topic '{cut(each)}'", code="invalid_value")
        if len(wanted) > MAX_TOPICS:
            raise ApiError(400, f"more than {MAX_TOPICS} topics", code="invalid_value")
        stream = LiveStream(Context.of(http), caller, news, watch, wanted)
        return StreamingResponse(
            stream.frames(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    router.add_api_route("/studio/api/live", live, methods=["GET"], response_model=None)
    return router
