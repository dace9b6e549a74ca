"""Loads, unloads and pins adapters while the engine runs.

Files are looked at on the caller's thread, since a disk may hang; the engine's thread gets a
message and only changes what names mean. Whatever becomes of a call, its future ends.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.errors import EngineStoppedError, GossamerError, RequestError, ServingError
from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.futures import settle
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.stats import AdapterStats, AdapterStatus, status_of
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.store.folder import find_allowed
from gossamer.serving.store.looks import AdapterLooks
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.store.names import AdapterNames, check_name

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
    """Does with adapters what operators and requests ask for; calls return at once."""

    def __init__(
        self,
        adapters: AdapterManager,
        names: AdapterNames,
        memory: MemoryManager,
        mailbox: Mailbox,
        roots: Iterable[Path],
        base_name: str,
    ) -> None:
        """`roots` are the folders from which adapters may be loaded."""
        self._adapters = adapters
        self._names = names
        self._memory = memory
        self._looks = AdapterLooks(names.look_up)
        self._mailbox = mailbox
        self._roots = tuple(roots)
        self._base_name = base_name
        self._jobs: list[_Job] = []
        self._latest: dict[str, _Job] = {}
        """The load of each name that began last."""
        self._open: set[Future[Any]] = set()

    # From any thread.

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """See `EngineInterface.look_up`."""
        return self._looks.look_up(name)

    def look_up_here(self, name: str) -> AnyAdapter:
        """Look `name` up on the caller's thread, which may wait for a disk."""
        return self._names.look_up(name)

    def hold(self, adapter: AnyAdapter) -> Callable[[], None]:
        """See `HoldingEngine.hold`."""
        self._adapters.hold(adapter)

        def let_go() -> None:
            # Behind the requests that were submitted meanwhile, so that they are counted by then.
            with suppress(EngineStoppedError):  # nothing is unloaded any more
                self._mailbox.post(lambda: self._adapters.let_go(adapter))

        return let_go

    def prefetch_read(self, adapter: AnyAdapter) -> None:
        """Begin to read `adapter` for a request that is on its way to the engine's thread."""
        self._adapters.prefetch_read(adapter)

    def statuses(self) -> list[AdapterStatus]:
        """See `EngineInterface.adapters`."""
        return self._looks.listing(self._adapters.statuses)

    def status(self, name: str) -> AdapterStatus:
        """See `EngineInterface.adapter`."""
        return self._looks.listing(lambda: self._adapters.status(name))

    def stats(self) -> AdapterStats:
        """Count adapters by where they are."""
        return self._adapters.stats()

    def load(
        self, name: str, folder: str | None, *, replace: bool, pin: bool
    ) -> "Future[AdapterStatus]":
        """See `EngineInterface.load_adapter`."""
        check_name(name, self._base_name)
        path = find_allowed(folder, self._roots) if folder is not None else None

        def look() -> AdapterEntry:
            entry = self._names.prepare(name, path)
            if path is not None and not replace:
                self._require_free(name, entry)
            return entry

        return self._ask(look, lambda entry, future: self._begin(name, entry, path, pin, future))

    def unload(self, name: str) -> "Future[None]":
        """See `EngineInterface.unload_adapter`."""
        return self._ask(
            lambda: self._names.find(name),
            lambda entry, future: self._unload(name, entry, future),
        )

    def pin(self, name: str, *, pinned: bool) -> "Future[AdapterStatus]":
        """See `EngineInterface.pin_adapter`."""
        return self._ask(
            lambda: self._names.look_up_one(name),
            lambda entry, future: self._pin(entry, pinned, future),
        )

    def close(self) -> None:
        """Stop the threads that read and copy."""
        self._adapters.close()
        self._memory.close()

    def end_calls(self) -> None:
        """Let nothing go on any more; what was asked for ends."""
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
            # The caller may have gone; from here on the future cannot be cancelled.
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
            known = self._names.look_up_one(name)
        except GossamerError:  # unknown or refused
            return
        if known.signature != wanted.signature:
            raise RequestError(
                f"'{name}' is another adapter already; unload it first, or set load_inplace to "
                "replace it",
                param="lora_name",
            )

    # On the engine's thread.

    def loading(self) -> list[AdapterEntry]:
        """List the adapters of loads and pins that go on; each counts as a request for its own."""
        return [job.entry for job in self._jobs]

    def advance(self) -> None:
        """Take over what was read and copied, and go on with loads that wait for it."""
        self._adapters.collect_loads()
        for name in self._memory.pop_lost_pins():
            self._pin_again(name)
        for job in list(self._jobs):
            try:
                if self._is_done(job):
                    self._end(job)
            except Exception as error:
                self._end(job, _as_ours(error))

    def _begin(
        self,
        name: str,
        entry: AdapterEntry,
        path: Path | None,
        pin: bool,
        future: "Future[AdapterStatus]",
    ) -> None:
        former = self._names.peek(entry.name)
        is_working = former is not None and former.error is None and not former.draining
        if former is None or not is_working or path is None or former.is_version_of(entry):
            job = _Job(self._names.give(name, path, entry), pin, future)
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
            self._adapters.unpin(entry.name)
            settle(future, status_of(entry))

    def _pin_again(self, name: str) -> None:
        """A pin holds for the name: other files under it take it over from the former ones."""
        entry = self._names.peek(name)
        if entry is None:
            log.warning("adapter %s is no longer pinned: its files have gone", name)
            return
        future: Future[AdapterStatus] = Future()
        future.add_done_callback(lambda done: _tell_of_lost_pin(name, done.exception()))
        self._pin(entry, True, future)

    def _start(self, job: _Job) -> None:
        self._jobs.append(job)
        self._adapters.add_ref(job.entry)
        self._adapters.start_load(job.entry)

    def _is_done(self, job: _Job) -> bool:
        entry = job.entry
        if entry.error is not None:
            raise entry.error.with_traceback(None)
        if entry.state in (AdapterState.REGISTERED, AdapterState.LOADING):
            # It may have been evicted and dropped since; then it is read again.
            self._adapters.start_load(entry)
            return False
        if job.pins and not self._is_pinnable(job):
            return False
        if job.former is not None:
            self._switch(job, job.former)
        if job.pins:
            self._memory.pin(entry, pinned=True)
        return True

    def _is_pinnable(self, job: _Job) -> bool:
        """Whether its adapter is in the pool; it is brought there. Raises `CapacityError`."""
        entry = job.entry
        self._memory.check_pin(entry, instead_of=job.former)
        if entry.state is AdapterState.HOST:
            if not (self._memory.fits(entry) and self._adapters.start_copy(entry)):
                return False
            self._adapters.acquire(entry)
            self._adapters.release(entry)
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
            self._memory.pin(former, pinned=False)
        self._adapters.supersede(former, job.entry)

    def _end(self, job: _Job, error: GossamerError | None = None) -> None:
        self._jobs.remove(job)
        if self._latest.get(job.entry.name) is job:
            del self._latest[job.entry.name]
        try:
            self._adapters.drop_ref(job.entry)
        finally:
            settle(job.future, status_of(job.entry), error=error)

    def _unload(self, name: str, entry: AdapterEntry, future: "Future[None]") -> None:
        if entry.name != name:
            self._names.hide(name)
            settle(future)
            return
        self._latest.pop(entry.name, None)
        self._adapters.unload(entry.name, lambda: settle(future))


def _as_ours(error: Exception) -> GossamerError:
    if isinstance(error, GossamerError):
        return error
    log.error("a call about an adapter has failed", exc_info=error)
    return ServingError("the server failed to do this; see its log")


def _tell_of_lost_pin(name: str, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, EngineStoppedError):
        log.warning("adapter %s is no longer pinned: %s", name, error)
