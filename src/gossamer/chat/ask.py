"""Asks several models the same question at once; the server answers them in one batch."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from gossamer.serving.client.address import api_root, key_headers
from gossamer.serving.client.chat_stream import Reply, stream_chat

STOPPED = "stopped"


def ask_all(
    url: str,
    api_key: str | None,
    bodies: Mapping[str, dict[str, Any]],
    tell: Callable[[str, str], None],
) -> dict[str, Reply]:
    """Ask each model with its body of a chat completion; returns when all have ended.

    `tell` is called with a model's name and each piece of its text. Ctrl-C ends what still runs,
    with the problem `STOPPED`, and the server gives up those requests as their clients have left.
    """
    replies = {model: Reply() for model in bodies}

    async def one(client: httpx.AsyncClient, model: str) -> None:
        async for piece in stream_chat(client, bodies[model], replies[model]):
            tell(model, piece)

    async def every() -> None:
        # No limit on reading: a busy server's first token may take long.
        timeout = httpx.Timeout(30, read=None)
        async with httpx.AsyncClient(
            base_url=api_root(url), headers=key_headers(api_key), timeout=timeout
        ) as client:
            await asyncio.gather(*(one(client, model) for model in bodies))

    try:
        asyncio.run(every())
    except KeyboardInterrupt:
        for reply in replies.values():
            if reply.finish_reason is None and reply.problem is None:
                reply.problem = STOPPED
    return replies
