"""Requests that start together, each streamed and timed."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from side_by_side_servers import Server, Weights, message


@dataclass(frozen=True, slots=True)
class Answer:
    """Times are `time.perf_counter` ones."""

    first: float
    """When the first token came."""
    last: float
    pieces: tuple[str, ...]
    """Text of each chunk, usually of one token."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


async def ask_all(
    server: Server, prompts: Sequence[Sequence[int]], weights: Sequence[Weights], new_tokens: int
) -> list[Answer]:
    """All at once; leaves the program with one line if a request fails or ends early."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        return await asyncio.gather(
            *(
                ask(client, server, prompt, weight, new_tokens)
                for prompt, weight in zip(prompts, weights, strict=True)
            )
        )


async def ask(
    client: httpx.AsyncClient,
    server: Server,
    prompt: Sequence[int],
    weights: Weights,
    new_tokens: int,
) -> Answer:
    """One completion. Chunks are read after the end: the client must not take the servers' time."""
    body = server.body(prompt, weights, new_tokens)
    lines: list[tuple[float, str]] = []
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if not response.is_success:
            text = (await response.aread()).decode("utf-8", "replace")
            _leave(server, f"status {response.status_code}: {message(text)}")
        async for line in response.aiter_lines():
            lines.append((time.perf_counter(), line))
    chunks = [
        (stamp, json.loads(line.removeprefix("data:")))
        for stamp, line in lines
        if line.startswith("data:") and "[DONE]" not in line
    ]
    parts = [(stamp, chunk) for stamp, chunk in chunks if chunk.get("choices")]
    counts = [chunk["usage"]["completion_tokens"] for _, chunk in chunks if chunk.get("usage")]
    if not parts or counts[-1:] != [new_tokens]:
        _leave(server, f"asked for {new_tokens} tokens, got {counts[-1:] or chunks[-1:]}")
    pieces = tuple(chunk["choices"][0]["text"] for _, chunk in parts)
    return Answer(parts[0][0], parts[-1][0], pieces)


def _leave(server: Server, problem: str) -> None:
    sys.exit(f"side_by_side.py: error: {server.name}: {problem}")
