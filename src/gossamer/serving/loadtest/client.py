"""Asks a server for one streamed completion and times it; holds the client's settings."""

import json
import random
import time
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pydantic import Field

from gossamer.serving.client.chat_stream import error_message
from gossamer.serving.loadtest.outcomes import Outcome, Sample
from gossamer.serving.loadtest.workload import Arrival
from gossamer.settings import Settings


class ClientSettings(Settings):
    """The settings of the client: the server's peculiarities, and what counts as good service."""

    prompt: Literal["tokens", "text"] = "tokens"
    """tokens: prompts are sent as token ids, so their lengths are exact; text: as random words of
    about that many tokens, for servers that take no ids."""
    vocabulary: int = Field(default=32000, ge=256)
    """Token ids are drawn below this number; it must not exceed the model's vocabulary."""
    ignore_eos: bool = True
    """Send `ignore_eos`, so that every answer is as long as the workload says; off for servers that
    refuse the field."""
    slo: float = Field(default=6.0, gt=0, allow_inf_nan=False)
    """Seconds within which a first token counts as in time."""
    timeout: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds after which a request is given up."""


_REFUSED = (429, 503)
_WORDS = (
    *("stone", "river", "lamp", "early", "north", "seven", "candle", "quiet", "market"),
    *("orange", "window", "letter", "garden", "silver", "train", "paper", "cloud", "winter"),
)


@dataclass(slots=True)
class _Progress:
    """The part of an answer that has come so far."""

    first: float | None = None
    chunks: int = 0
    usage: dict[str, Any] | None = None


async def ask(
    client: httpx.AsyncClient,
    model: str,
    arrival: Arrival,
    number: int,
    settings: ClientSettings,
    start: float,
) -> Sample:
    """Ask request `number` of the trace; never raises: trouble is an outcome."""
    progress = _Progress()
    outcome: Outcome = "finished"
    problem = None
    try:
        body = _body(model, arrival, number, settings)
        async with client.stream("POST", "completions", json=body) as response:
            if response.is_success:
                async for line in response.aiter_lines():
                    _take(line, progress, start)
            else:
                outcome = "refused" if response.status_code in _REFUSED else "failed"
                problem = f"status {response.status_code}: {await error_message(response)}"
        if outcome == "finished" and progress.first is None:
            outcome, problem = "failed", "the answer held no token"
    except _ServerError as error:
        outcome, problem = "failed", str(error)
    except httpx.HTTPError as error:
        outcome, problem = "failed", str(error) or type(error).__name__
    usage = progress.usage or {}
    return Sample(
        model=model,
        due=arrival.time,
        outcome=outcome,
        first=progress.first,
        end=time.perf_counter() - start,
        prompt_tokens=usage.get("prompt_tokens", arrival.prompt_tokens),
        output_tokens=usage.get("completion_tokens", progress.chunks),
        problem=problem,
    )


class _ServerError(Exception):
    """An error that came within the stream."""


def _body(model: str, arrival: Arrival, number: int, settings: ClientSettings) -> dict[str, Any]:
    # Distinct prompts: a cache of prefixes must not answer for the model.
    rng = random.Random(f"{number} {arrival.time}")
    count = arrival.prompt_tokens
    prompt: Any = (
        [rng.randrange(100, settings.vocabulary) for _ in range(count)]
        if settings.prompt == "tokens"
        else " ".join(rng.choices(_WORDS, k=count))
    )
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": arrival.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {**body, "ignore_eos": True} if settings.ignore_eos else body


def _take(line: str, progress: _Progress, start: float) -> None:
    if not line.startswith("data:"):
        return
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return
    chunk = json.loads(data)
    if "error" in chunk:
        raise _ServerError(str(chunk["error"].get("message", chunk["error"])))
    if chunk.get("choices"):
        progress.chunks += 1
        if progress.first is None:
            progress.first = time.perf_counter() - start
    if chunk.get("usage"):
        progress.usage = chunk["usage"]
