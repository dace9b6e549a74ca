"""Takes in the form of an upload as it comes: to scratch, on threads, never whole in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

from starlette.requests import Request

from gossamer.jobs.files.form import Form, FormReceiver, too_large
from gossamer.serving.http.errors import ClientGoneError
from gossamer.studio.context import Studio

PIECE_BYTES = 512 * 1024
"""The bytes that are parsed, hashed and written in one go."""

SLACK_BYTES = 2**20
"""The most that a form has around its file."""

DRAIN_BYTES = 16 * 2**20
DRAIN_SECONDS = 1.0
"""This much of a refused body is still read and thrown away: a client that is busy sending would
not see the answer."""


async def receive_form(
    http: Request, begin: Callable[[str, int], FormReceiver], max_bytes: int
) -> Form:
    """Receive the body of a call, for which `begin` makes the receiver.

    The form's file is the caller's to remove. Raises the receiver's errors, or `ClientGoneError`.
    """
    pieces = _pieces(http)
    try:
        return await _receive(http, begin, max_bytes, pieces)
    except ClientGoneError:
        raise
    except Exception:
        await _drain(pieces)
        raise


async def _receive(
    http: Request,
    begin: Callable[[str, int], FormReceiver],
    max_bytes: int,
    pieces: AsyncIterator[bytes],
) -> Form:
    studio = Studio.of(http)
    announced = int(length) if (length := http.headers.get("content-length", "")).isdigit() else 0
    if announced > max_bytes + SLACK_BYTES:
        raise too_large(max_bytes, "as the header Content-Length says")
    kind = http.headers.get("content-type", "")
    receiver = await studio.run(http, partial(begin, kind, announced))
    try:
        buffer, total = bytearray(), 0
        async for piece in pieces:
            total += len(piece)
            if total > max_bytes + SLACK_BYTES:
                raise too_large(max_bytes, "with all that is around it in the form")
            buffer += piece
            if len(buffer) >= PIECE_BYTES:
                await studio.run(http, partial(receiver.write, bytes(buffer)))
                buffer.clear()
        await studio.run(http, partial(receiver.write, bytes(buffer)))
        return receiver.finish()
    finally:
        receiver.close()


async def _pieces(http: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        if body := message.get("body", b""):
            yield body


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    rest = DRAIN_BYTES
    with suppress(TimeoutError, ClientGoneError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for piece in pieces:
                rest -= len(piece)
                if rest < 0:
                    return
