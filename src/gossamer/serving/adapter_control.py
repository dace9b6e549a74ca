"""Loading, unloading and pinning adapters while the engine runs."""

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import EngineStoppedError, GossamerError, RequestError, UnknownModelError
from gossamer.serving.adapter_entry import AdapterEntry, AdapterState
from gossamer.serving.adapter_folder import signature
from gossamer.serving.adapter_names import check_name
from gossamer.serving.adapter_paths import find_allowed
from gossamer.serving.adapter_status import status_of
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.bell import Bell
from gossamer.serving.interface import AdapterStatus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A load that goes on; `entry` counts it as a request, so that nothing drops it."""

    entry: AdapterEntry
    pins: bool
    future: "Future[AdapterStatus]"


class AdapterControl:
    """What those who run the server may do with adapters. Calls from any thread return at once."""

    def __init__(
        self, store: AdapterStore, bell: Bell, roots: Iterable[Path], base_name: str
    ) -> None:
        """`roots` are the folders from which adapters may be loaded."""
        self._store = store
        self._bell = bell
        self._roots = tuple(roots)
        self._base_name = base_name
        self._jobs: list[_Job] = []
        self._unloads: list[Future[None]] = []

    def load(
        self, name: str, folder: str | None, *, replace: bool, pin: bool
    ) -> "Future[AdapterStatus]":
        """See `EngineInterface.load_adapter`."""
        check_name(name, self._base_name)
        path = find_allowed(folder, self._roots) if folder is not None else None
        future: Future[AdapterStatus] = Future()
        self._bell.ring(lambda: self._begin(name, path, replace, pin, future))
        return future

    def unload(self, name: str) -> "Future[None]":
        """See `EngineInterface.unload_adapter`."""
        future: Future[None] = Future()
        self._bell.ring(lambda: self._unload(name, future))
        return future

    def pin(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """See `EngineInterface.pin_adapter`."""
        future: Future[AdapterStatus] = Future()
        self._bell.ring(lambda: self._pin(name, pinned, future))
        return future

    # On the engine's thread.

    def turn(self) -> None:
        """Go on with loads that wait for a file, a copy or memory."""
        for name in self._store.take_lost_pins():
            self._pin_again(name)
        for job in list(self._jobs):
            try:
                is_done = self._is_done(job)
            except GossamerError as error:
                self._end(job, error)
            else:
                if is_done:
                    self._end(job)

    def close(self) -> None:
        """Nothing goes on any more."""
        error = EngineStoppedError("the server is shutting down")
        for job in list(self._jobs):
            self._end(job, error)
        for future in [each for each in self._unloads if not each.done()]:
            future.set_exception(error)

    def _begin(
        self,
        name: str,
        path: Path | None,
        replace: bool,
        pin: bool,
        future: "Future[AdapterStatus]",
    ) -> None:
        try:
            if path is not None and not replace:
                self._require_free(name, path)
            entry = self._store.names.give(name, path)
        except GossamerError as error:
            future.set_exception(error)
            return
        self._start(_Job(entry, pin, future))

    def _require_free(self, name: str, path: Path) -> None:
        try:
            known = self._store.names.look_up_one(name)
        except GossamerError:  # unknown or refused
            return
        if known.signature != signature(path):
            raise RequestError(
                f"'{name}' is another adapter already; unload it first, or set load_inplace to "
                "replace it",
                param="lora_name",
            )

    def _pin(self, name: str, pinned: bool, future: "Future[AdapterStatus]") -> None:
        try:
            entry = self._store.names.look_up_one(name)
        except GossamerError as error:
            future.set_exception(error)
            return
        if pinned:
            self._start(_Job(entry, True, future))
        else:
            self._store.pin(entry, pinned=False)
            future.set_result(status_of(entry))

    def _pin_again(self, name: str) -> None:
        """A pin holds for the name: other files under it take it over from the former ones."""
        future: Future[AdapterStatus] = Future()
        future.add_done_callback(lambda done: _tell_of_lost_pin(name, done.exception()))
        self._pin(name, True, future)

    def _start(self, job: _Job) -> None:
        self._jobs.append(job)
        self._store.hold(job.entry)
        self._store.start_load(job.entry)

    def _is_done(self, job: _Job) -> bool:
        entry = job.entry
        if entry.error is not None:
            raise entry.error.with_traceback(None)
        if entry.state in (AdapterState.REGISTERED, AdapterState.LOADING):
            # It may have been evicted and dropped since; then it is read again.
            self._store.start_load(entry)
            return False
        if not job.pins:
            return True
        self._store.check_pin(entry)
        if entry.state is AdapterState.HOST:
            if not (self._store.can_acquire(entry) and self._store.bring(entry)):
                return False
            self._store.acquire(entry)
            self._store.release(entry)
        if entry.state is not AdapterState.RESIDENT:
            return False
        self._store.pin(entry, pinned=True)
        return True

    def _end(self, job: _Job, error: GossamerError | None = None) -> None:
        self._jobs.remove(job)
        self._store.let_go(job.entry)
        if error is None:
            job.future.set_result(status_of(job.entry))
        else:
            job.future.set_exception(error)

    def _unload(self, name: str, future: "Future[None]") -> None:
        self._unloads = [each for each in self._unloads if not each.done()]
        try:
            self._store.unload(name, lambda: _settle(future))
        except UnknownModelError as error:
            future.set_exception(error)
            return
        self._unloads.append(future)


def _tell_of_lost_pin(name: str, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, EngineStoppedError):
        log.warning("adapter %s is no longer pinned: %s", name, error)


def _settle(future: "Future[None]") -> None:
    if not future.done():
        future.set_result(None)
