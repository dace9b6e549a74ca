"""One streamed reply of a chat model, as its pieces come."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from gossamer.errors import ServingError


@dataclass(slots=True)
class Reply:
    """What has come of a reply so far; `stream_chat` keeps it up to date."""

    text: str = ""
    problem: str | None = None
    """Why it ended before its end; None: it did not."""
    finish_reason: str | None = None
    tokens: int | None = None
    """Tokens of the reply, by the server's count."""
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    """Seconds to the first piece of text."""
    seconds: float | None = None
    """Seconds to the end."""


async def stream_chat(
    client: httpx.AsyncClient, body: dict[str, Any], reply: Reply
) -> AsyncIterator[str]:
    """Ask for a reply and yield the pieces of its text; fills `reply` on the way.

    `client` has the address and the key; `body` is that of a chat completion without its fields of
    streaming. A reply that the server refuses or breaks off has a `problem` and no exception.
    """
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "chat/completions", json=asked) as response:
            if not response.is_success:
                reply.problem = await error_message(response)
                return
            async for line in response.aiter_lines():
                piece = _take(line, reply)
                if piece:
                    if reply.first is None:
                        reply.first = time.monotonic() - reply.began
                    reply.text += piece
                    yield piece
        if reply.finish_reason is None and reply.problem is None:
            reply.problem = "the server broke off"
    except ServingError as error:
        reply.problem = str(error)
    except httpx.HTTPError as error:
        reply.problem = str(error) or type(error).__name__
    finally:
        reply.seconds = time.monotonic() - reply.began


async def error_message(response: httpx.Response) -> str:
    """The sentence of an error answer, else the beginning of what came instead."""
    text = (await response.aread()).decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200] or f"status {response.status_code}"


def _take(line: str, reply: Reply) -> str:
    """Note what a line of the stream tells, and return its piece of text."""
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return ""
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise ServingError(str(chunk["error"].get("message", chunk["error"])))
        usage = chunk.get("usage")
        reply.tokens = reply.tokens if usage is None else usage.get("completion_tokens")
        if not chunk.get("choices"):
            return ""
        choice = chunk["choices"][0]
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
        return str(choice.get("delta", {}).get("content") or "")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ServingError("the server's stream is not that of a chat completion") from None
