"""Streams a reply as server-sent events."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gossamer.serving.core.messages import Finished, Tokens
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.errors import ClientGoneError, to_api_error
from gossamer.serving.http.openai.channel import Channel
from gossamer.serving.http.openai.request_schema import StreamOptions
from gossamer.serving.http.openai.responses import ReplyFormat, Usage


class EventStream(Response):
    """Sends the events of a channel as they come; cancels what is left when it ends.

    A failure on the way is sent as an event of the route's error shape, which is the last.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        channel: Channel,
        reply: ReplyFormat,
        usage: Usage,
        *,
        options: StreamOptions,
        request_id: str,
    ) -> None:
        # X-Accel-Buffering: nginx would otherwise hold the events back.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._channel = channel
        self._reply = reply
        self._usage = usage
        self._options = options
        self._request_id = request_id
        self._opened: set[int] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response (ASGI)."""
        try:
            await run_unless_disconnected(receive, self._send_all(send))
        except ClientGoneError:
            pass
        finally:
            self._channel.cancel()

    async def _send_all(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers},
        )
        async for chunk in self._frames():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self) -> AsyncIterator[bytes]:
        try:
            async for batch in self._channel.batches():
                # What has come together is sent together.
                frames = [
                    self._reply.frame(chunk | self._usage_so_far())
                    for event in batch
                    for chunk in self._chunks(*event)
                ]
                if frames:
                    yield b"".join(frames)
            if self._options.include_usage:
                yield self._reply.frame(self._reply.usage_chunk(self._usage))
            if self._reply.last_frame:
                yield self._reply.last_frame
        except Exception as error:
            told = self._reply.names.renamed(to_api_error(error, self._request_id))
            yield self._reply.frame(self._reply.failure(told))

    def _chunks(self, index: int, event: Tokens | Finished) -> Iterator[dict[str, Any]]:
        if index not in self._opened:
            self._opened.add(index)
            yield from self._reply.opening(index)
        if isinstance(event, Finished):
            self._usage.add(index, event)
            yield from self._reply.closing(index, event.finish_reason)
            return
        self._usage.tell(index, event)
        yield from self._reply.delta(index, event)

    def _usage_so_far(self) -> dict[str, Any]:
        """The field `usage` of a chunk: OpenAI's before the last carry an empty one."""
        if self._options.continuous_usage_stats:
            return {"usage": self._usage.as_dict()}
        return {"usage": None} if self._options.include_usage else {}
