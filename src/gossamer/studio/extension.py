"""The page as an addition to the server: its files, its questions, its stream of news."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from gossamer.serving.http.context import Context
from gossamer.serving.http.extension import Extension
from gossamer.studio.api import ask, keys
from gossamer.studio.api.live import live_router
from gossamer.studio.api.live_stream import JobNews
from gossamer.studio.api.watch import NOTE_SECONDS, ServerWatch
from gossamer.studio.static import page_router


def page_extension(news: JobNews, watch: ServerWatch | None = None) -> Extension:
    """Make the addition, which shows the jobs of `news` and what `watch` sees of the machine.

    Give it to `create_app` after all others: its document answers every address below /studio that
    nothing else does. Files and document need no key, the routes behind them do.
    """
    seen = watch or ServerWatch()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_note_waits(app.state.context, seen))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return Extension(
        routers=(ask.router, keys.router, live_router(news, seen), page_router()),
        open_paths=frozenset({"/studio", "/studio/"}),
        lifespan=lifespan,
    )


async def _note_waits(context: Context, watch: ServerWatch) -> None:
    """Remember from time to time how long first tokens have taken."""
    while True:
        watch.waits.note(time.monotonic(), context.metrics.first_token_buckets())
        await asyncio.sleep(NOTE_SECONDS)
