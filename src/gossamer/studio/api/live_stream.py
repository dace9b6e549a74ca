"""What a page is told as it happens: everything once, then whatever changes.

A stream begins with all that is known and then tells changes, so a page that has been away needs
nothing but to ask again: `session`, `jobs` (those that changed, those that are gone), `job` (lines
of metrics from a number on), `adapters` and `server`.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

from gossamer.errors import GossamerError
from gossamer.serving.http.auth import allowed
from gossamer.serving.http.context import Context
from gossamer.serving.keys import Caller
from gossamer.studio.api.figures import adapter_figures, server_figures
from gossamer.studio.api.watch import ServerWatch
from gossamer.version import VERSION

TICK_SECONDS = 1.0
"""Between two looks at what has changed."""
ALIVE_SECONDS = 15.0
"""After which silence a comment is sent: proxies close connections on which nothing comes."""


class JobNews(Protocol):
    """What the stream asks of the jobs. Each is called on a thread, about once a second."""

    def jobs(self, caller: Caller) -> list[dict[str, Any]]:
        """All jobs of the caller as the API shows them, the newest first."""

    def metrics(self, caller: Caller, job_id: str) -> tuple[str, list[dict[str, Any]]]:
        """The lines of a job's metrics, and a word that changes when lines before are cut.

        No lines for a job that is not the caller's.
        """


class LiveStream:
    """What one page has been told, and what is new to it."""

    def __init__(
        self,
        context: Context,
        caller: Caller,
        news: JobNews,
        watch: ServerWatch,
        topics: list[str],
    ) -> None:
        self._context = context
        self._caller = caller
        self._news = news
        self._watch = watch
        self._topics = topics
        self._jobs: dict[str, str] | None = None
        self._lines: dict[str, tuple[str, int]] = {}
        self._last: dict[str, str] = {}

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield events until the client goes or the engine ends."""
        yield _frame("session", self._session())
        quiet_since = time.monotonic()
        while self._context.engine.healthy():
            for topic in self._topics:
                for frame in await self._changes(topic):
                    yield frame
                    quiet_since = time.monotonic()
            if time.monotonic() - quiet_since > ALIVE_SECONDS:
                quiet_since = time.monotonic()
                yield b": alive\n\n"
            await asyncio.sleep(TICK_SECONDS)

    def _session(self) -> dict[str, Any]:
        context, caller = self._context, self._caller
        return {
            "tenant": caller.tenant,
            "admin": caller.is_admin,
            "train": caller.may_train,
            "has_keys": context.settings.needs_key,
            "key_file": context.settings.keys is not None,
            "model": context.engine.model_name,
            "max_context": context.engine.max_context,
            "version": VERSION,
        }

    async def _changes(self, topic: str) -> list[bytes]:
        if topic == "jobs":
            return self._new_jobs(await run_in_threadpool(self._news.jobs, self._caller))
        if topic.startswith("job:"):
            job_id = topic.removeprefix("job:")
            found = await run_in_threadpool(self._news.metrics, self._caller, job_id)
            return self._new_lines(job_id, *found)
        if topic == "adapters":
            return await self._adapters()
        if not self._caller.is_admin:
            return []
        return self._if_new(topic, await run_in_threadpool(self._server))

    def _server(self) -> dict[str, Any]:
        buckets = self._context.metrics.first_token_buckets()
        return {**server_figures(self._context.engine), **self._watch.figures(buckets)}

    def _new_jobs(self, jobs: list[dict[str, Any]]) -> list[bytes]:
        now = {job["id"]: json.dumps(job, sort_keys=True) for job in jobs}
        before, self._jobs = self._jobs, now
        known = before or {}
        changed = [job for job in jobs if known.get(job["id"]) != now[job["id"]]]
        removed = sorted(known.keys() - now.keys())
        if before is not None and not changed and not removed:
            return []
        data = {"data": changed, "removed": removed, "all": before is None}
        return [_frame("jobs", data)]

    def _new_lines(self, job_id: str, version: str, lines: list[dict[str, Any]]) -> list[bytes]:
        known, count = self._lines.get(job_id, (None, 0))
        start = count if known == version and count <= len(lines) else 0
        self._lines[job_id] = (version, len(lines))
        if known == version and start == len(lines):
            return []
        return [_frame("job", {"id": job_id, "from": start, "data": lines[start:]})]

    async def _adapters(self) -> list[bytes]:
        try:
            statuses = await self._context.catalogue.statuses()
        except GossamerError as error:
            return self._if_new("adapters", {"data": [], "problem": str(error)})
        shown = [adapter_figures(each) for each in allowed(self._caller, statuses)]
        return self._if_new("adapters", {"data": shown, "problem": None})

    def _if_new(self, topic: str, data: Mapping[str, Any]) -> list[bytes]:
        text = json.dumps(data, sort_keys=True)
        if self._last.get(topic) == text:
            return []
        self._last[topic] = text
        return [_frame(topic, data)]


def _frame(event: str, data: Mapping[str, Any]) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event}\ndata: {text}\n\n".encode()
