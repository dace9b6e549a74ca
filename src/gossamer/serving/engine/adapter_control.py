"""Loading, unloading and pinning adapters while the engine runs.

Files are looked at on the caller's thread, since a disk may hang; the engine's thread gets a
message and only changes what names mean. Whatever becomes of a call, its future ends.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.errors import EngineStoppedError, GossamerError, RequestError, ServingError
from gossamer.serving.core.adapter import AdapterEntry, AdapterState
from gossamer.serving.core.futures import settle
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.stats import AdapterStatus, status_of
from gossamer.serving.store.folder import find_allowed
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.store.names import check_name

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    """A load that goes on; `entry` counts it as a request, so that nothing drops it."""

    entry: AdapterEntry
    pins: bool
    future: "Future[AdapterStatus]"
    former: AdapterEntry | None = None
    """What the name means until `entry` has been read."""


class AdapterControl:
    """What those who run the server may do with adapters. Calls from any thread return at once."""

    def __init__(
        self, store: AdapterManager, mailbox: Mailbox, roots: Iterable[Path], base_name: str
    ) -> None:
        """`roots` are the folders from which adapters may be loaded."""
        self._store = store
        self._mailbox = mailbox
        self._roots = tuple(roots)
        self._base_name = base_name
        self._jobs: list[_Job] = []
        self._latest: dict[str, _Job] = {}
        """The load of each name that began last."""
        self._open: set[Future[Any]] = set()

    def load(
        self, name: str, folder: str | None, *, replace: bool, pin: bool
    ) -> "Future[AdapterStatus]":
        """See `EngineInterface.load_adapter`."""
        check_name(name, self._base_name)
        path = find_allowed(folder, self._roots) if folder is not None else None
        names = self._store.names

        def look() -> AdapterEntry:
            entry = names.prepare(name, path)
            if path is not None and not replace:
                self._require_free(name, entry)
            return entry

        return self._ask(look, lambda entry, future: self._begin(entry, path, pin, future))

    def unload(self, name: str) -> "Future[None]":
        """See `EngineInterface.unload_adapter`."""
        return self._ask(lambda: self._store.names.find(name), self._unload)

    def pin(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """See `EngineInterface.pin_adapter`."""
        return self._ask(
            lambda: self._store.names.look_up_one(name),
            lambda entry, future: self._pin(entry, pinned, future),
        )

    def close(self) -> None:
        """Nothing goes on any more; what was asked for ends. From any thread."""
        error = EngineStoppedError("the server is shutting down")
        for future in list(self._open):
            settle(future, error=error)

    def _ask(
        self,
        look: Callable[[], AdapterEntry],
        act: Callable[[AdapterEntry, "Future[Any]"], None],
    ) -> "Future[Any]":
        """Have the engine's thread `act` on what `look` finds here. Raises `EngineStoppedError`."""
        future: Future[Any] = Future()
        try:
            entry = look()
        except GossamerError as error:
            future.set_exception(error)
            return future

        def message() -> None:
            # Whoever asked may have gone; from here on the future cannot be cancelled.
            if not future.set_running_or_notify_cancel():
                return
            try:
                act(entry, future)
            except Exception as error:
                settle(future, error=_as_ours(error))

        self._open.add(future)
        future.add_done_callback(self._open.discard)
        try:
            self._mailbox.post(message)
        except EngineStoppedError:
            self._open.discard(future)
            raise
        return future

    def _require_free(self, name: str, wanted: AdapterEntry) -> None:
        try:
            known = self._store.names.look_up_one(name)
        except GossamerError:  # unknown or refused
            return
        if known.signature != wanted.signature:
            raise RequestError(
                f"'{name}' is another adapter already; unload it first, or set load_inplace to "
                "replace it",
                param="lora_name",
            )

    # On the engine's thread.

    def turn(self) -> None:
        """Go on with loads that wait for a file, a copy or memory."""
        for name in self._store.pins.take_lost():
            self._pin_again(name)
        for job in list(self._jobs):
            try:
                if self._is_done(job):
                    self._end(job)
            except Exception as error:
                self._end(job, _as_ours(error))

    def _begin(
        self, entry: AdapterEntry, path: Path | None, pin: bool, future: "Future[AdapterStatus]"
    ) -> None:
        former = self._store.names.peek(entry.name)
        is_working = former is not None and former.error is None and not former.draining
        if former is None or not is_working or path is None or former.is_version_of(entry):
            job = _Job(self._store.names.give(entry.name, path, entry), pin, future)
        else:
            # The name goes on meaning what works until the new files have proved good.
            job = _Job(entry, pin or former.pinned, future, former)
        self._latest[entry.name] = job
        self._start(job)

    def _pin(self, entry: AdapterEntry, pinned: bool, future: "Future[AdapterStatus]") -> None:
        if pinned:
            self._start(_Job(entry, True, future))
        else:
            # The last call counts, also where other files are about to take the pin over.
            for job in self._jobs:
                if job.entry.name == entry.name:
                    job.pins = False
            self._store.unpin(entry.name)
            settle(future, status_of(entry))

    def _pin_again(self, name: str) -> None:
        """A pin holds for the name: other files under it take it over from the former ones."""
        entry = self._store.names.peek(name)
        if entry is None:
            log.warning("adapter %s is no longer pinned: its files have gone", name)
            return
        future: Future[AdapterStatus] = Future()
        future.add_done_callback(lambda done: _tell_of_lost_pin(name, done.exception()))
        self._pin(entry, True, future)

    def _start(self, job: _Job) -> None:
        self._jobs.append(job)
        self._store.add_ref(job.entry)
        self._store.start_load(job.entry)

    def _is_done(self, job: _Job) -> bool:
        entry = job.entry
        if entry.error is not None:
            raise entry.error.with_traceback(None)
        if entry.state in (AdapterState.REGISTERED, AdapterState.LOADING):
            # It may have been evicted and dropped since; then it is read again.
            self._store.start_load(entry)
            return False
        if job.pins and not self._is_pinnable(job):
            return False
        if job.former is not None:
            self._switch(job, job.former)
        if job.pins:
            self._store.pin(entry, pinned=True)
        return True

    def _is_pinnable(self, job: _Job) -> bool:
        """Whether its adapter is in the pool; it is brought there. Raises `CapacityError`."""
        entry = job.entry
        self._store.pins.check(entry, instead_of=job.former)
        if entry.state is AdapterState.HOST:
            if not (self._store.can_acquire(entry) and self._store.start_copy(entry)):
                return False
            self._store.acquire(entry)
            self._store.release(entry)
        return entry.state is AdapterState.RESIDENT

    def _switch(self, job: _Job, former: AdapterEntry) -> None:
        """The new files have been read: the name means them from now on."""
        name = job.entry.name
        if self._latest.get(name) is not job:
            raise RequestError(
                f"'{name}' was loaded again or unloaded while its new files were read",
                param="lora_name",
            )
        if former.pinned:
            self._store.pin(former, pinned=False)
        self._store.supersede(former, job.entry)

    def _end(self, job: _Job, error: GossamerError | None = None) -> None:
        self._jobs.remove(job)
        if self._latest.get(job.entry.name) is job:
            del self._latest[job.entry.name]
        try:
            self._store.drop_ref(job.entry)
        finally:
            settle(job.future, status_of(job.entry), error=error)

    def _unload(self, entry: AdapterEntry, future: "Future[None]") -> None:
        self._latest.pop(entry.name, None)
        self._store.unload(entry.name, lambda: settle(future))


def _as_ours(error: Exception) -> GossamerError:
    if isinstance(error, GossamerError):
        return error
    log.error("a call about an adapter has failed", exc_info=error)
    return ServingError("the server failed to do this; see its log")


def _tell_of_lost_pin(name: str, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, EngineStoppedError):
        log.warning("adapter %s is no longer pinned: %s", name, error)
