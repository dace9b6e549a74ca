"""Sends the events of several channels as one stream of server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gossamer.serving.core.messages import Finished, Tokens
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.errors import ApiError, ClientGoneError, to_api_error
from gossamer.serving.http.openai.channel import Channel
from gossamer.serving.http.openai.responses import frame

MAX_WAITING = 1000
"""The frames that wait for a slow client before its channels are no longer read."""


class MergedStream(Response):
    """Sends `{column, delta}` for each piece, and `{column, done}` or `{column, error}` at its end.

    Times are counted from the first call of this response, when all columns have been submitted.
    Cancels what is left when it ends.
    """

    media_type = "text/event-stream"

    def __init__(self, columns: Sequence[tuple[Channel, ApiError | None]]) -> None:
        # X-Accel-Buffering: nginx would otherwise hold the events back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._columns = columns
        self._start = time.perf_counter()
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until every column has ended or the client is gone (ASGI)."""
        try:
            await run_unless_disconnected(receive, self._send_all(send))
        except ClientGoneError:
            return
        finally:
            for channel, _ in self._columns:
                channel.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_all())
            async for chunk in self._chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self._frames.get()) is not None:
            parts = [chunk]
            # What has come together is sent together.
            while not self._frames.empty():
                if (more := self._frames.get_nowait()) is None:
                    yield b"".join(parts)
                    return
                parts.append(more)
            yield b"".join(parts)

    async def _read_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, (channel, error) in enumerate(self._columns):
                tasks.create_task(self._read(number, channel, error))
        await self._frames.put(None)

    async def _read(self, number: int, channel: Channel, error: ApiError | None) -> None:
        if error is not None:
            await self._put(number, error.body())
            return
        first = 0.0
        try:
            async for batch in channel.batches():
                first = first or time.perf_counter() - self._start
                if text := "".join(event.text for _, event in batch if isinstance(event, Tokens)):
                    await self._put(number, {"delta": text})
                for _, event in batch:
                    if isinstance(event, Finished):
                        await self._put(number, {"done": self._done(event, first)})
        except Exception as problem:
            await self._put(number, to_api_error(problem, "a column").body())

    def _done(self, event: Finished, first: float) -> dict[str, Any]:
        return {
            "finish_reason": event.finish_reason,
            "prompt_tokens": event.prompt_tokens,
            "completion_tokens": event.completion_tokens,
            "first_token_seconds": round(first, 4),
            "seconds": round(time.perf_counter() - self._start, 4),
        }

    async def _put(self, number: int, content: dict[str, Any]) -> None:
        await self._frames.put(frame({"column": number, **content}))
