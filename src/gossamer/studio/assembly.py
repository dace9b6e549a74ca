"""Files, jobs and sessions as an addition to the server, and what runs beside it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from gossamer.errors import StorageError
from gossamer.jobs.files.preview import Preview
from gossamer.jobs.files.service import FileService
from gossamer.jobs.files.sweeper import Sweeper
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.serving.http.extension import Extension
from gossamer.serving.keys import Caller
from gossamer.studio.api import models as own_models
from gossamer.studio.api.tokens import tokens_router
from gossamer.studio.api.watch import ServerWatch
from gossamer.studio.context import Studio
from gossamer.studio.extension import page_extension
from gossamer.studio.grants import Grants
from gossamer.studio.models import TunedModels
from gossamer.studio.new_job import BaseModel, JobMaker
from gossamer.studio.new_work import WorkMaker
from gossamer.studio.news import StoredNews
from gossamer.studio.routes import (
    archives,
    files,
    job_events,
    job_files,
    jobs,
    models,
    session,
    uploads,
    work,
)
from gossamer.studio.sessions import Sessions, cookie_of
from gossamer.studio.trials import TrialEstimator, Trials
from gossamer.studio.view.lines import RunLines
from gossamer.studio.view.work import JobResults

log = logging.getLogger("gossamer.studio")

SWEEP_SECONDS = 600.0
GRANT_SECONDS = 5.0
"""Permissions that another server on the same database gives count after this time."""

ROUTES = (
    files,
    uploads,
    jobs,
    job_events,
    job_files,
    models,
    own_models,
    archives,
    work,
)


class JobRunner(Protocol):
    """What starts and stops the processes of jobs (`jobs.supervise`)."""

    def start(self) -> None:
        """Begin, in a thread."""

    def wake(self) -> None:
        """Look now: something has changed."""

    def stop(self) -> None:
        """End; returns when all jobs have saved."""


class StudioParts:
    """The objects of one data folder, and the extensions that serve them."""

    def __init__(
        self,
        settings: JobsSettings,
        base: BaseModel,
        *,
        store: JobStore,
        runner: JobRunner | None = None,
        estimator: TrialEstimator | None = None,
        token: str | None = None,
    ) -> None:
        """`runner` runs the jobs (None: another server on this database does), `estimator` says
        what they would take; `token` opens one session, once."""
        service, trials = FileService(store, settings), Trials(estimator)
        grants = Grants(store)
        self._runner = runner
        self._model = Path(base.source)
        self._sweeper = Sweeper(store, service, settings)
        maker = JobMaker(store, service, settings, base, trials)
        self.studio = Studio(
            store=store,
            folder=settings.folder,
            files=service,
            maker=maker,
            work=WorkMaker(store, settings, base, maker, trials),
            sessions=Sessions(store, token=token),
            lines=RunLines(settings.folder),
            results=JobResults(settings.folder),
            grants=grants,
            models=TunedModels(store, settings.folder, grants, base, settings.keep_seconds),
            trials=trials,
            preview=Preview(service.blobs, self._model),
            wake=runner.wake if runner is not None else lambda: None,
        )

    def api(self) -> Extension:
        """The routes of files, jobs and models, and what they need beside the server."""
        return Extension(
            routers=tuple(each.router for each in ROUTES),
            state={"studio": self.studio},
            lifespan=self._lifespan,
            upload_paths=("/v1/files", "/v1/uploads/", archives.IMPORTS),
            granted=self.studio.grants.of,
        )

    def page(self) -> tuple[Extension, ...]:
        """The page and its sessions; after `api`."""
        tokens = tokens_router(self.studio.files, self._model)
        sessions = Extension(routers=(session.router, tokens), session=self._caller)
        news = StoredNews(self.studio.store, self.studio.lines, self.studio.results)
        watch = ServerWatch(self.studio.folder.root, news.workers)
        return sessions, page_extension(news, watch)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        studio = self.studio
        await run_in_threadpool(studio.grants.refresh)
        try:
            await run_in_threadpool(self._sweeper.begin)
        except StorageError as error:
            # A worker that was stopped while it wrote keeps others from writing until the
            # supervisor, which starts below, lets it go on; what is to be swept can wait.
            log.warning("what a crash may have left is mended later: %s", error)
        studio.files.desk.start()
        async with AsyncExitStack() as stack:
            stack.callback(studio.threads.close)
            stack.callback(studio.trial_threads.close)
            stack.push_async_callback(run_in_threadpool, studio.files.desk.close)
            stack.push_async_callback(run_in_threadpool, studio.preview.close)
            if self._runner is not None:
                self._runner.start()
                stack.push_async_callback(run_in_threadpool, self._runner.stop)
            for work, seconds in (
                (self._sweeper.sweep, SWEEP_SECONDS),
                (studio.grants.refresh, GRANT_SECONDS),
            ):
                task = asyncio.create_task(_again_and_again(work, seconds))
                stack.push_async_callback(_cancelled, task)
            yield

    async def _caller(self, call: HTTPConnection) -> Caller | None:
        if (cookie := cookie_of(call)) is None:
            return None
        keys = call.app.state.context.keys
        return await run_in_threadpool(self.studio.sessions.find, cookie, keys)


async def _again_and_again(work: Callable[[], None], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await run_in_threadpool(work)
        except Exception:
            # A database that is busy or a disk that is full: at the next time again.
            log.exception("housekeeping has failed")


async def _cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
