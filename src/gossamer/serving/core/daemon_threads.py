"""Runs work that may hang, a disk's above all, on threads that nothing waits for in the end.

`ThreadPoolExecutor` joins its threads when the interpreter ends, so one read that never returns
keeps the process alive; and the work behind it waits as long. Here the threads are daemons, another
one takes over beside a slow one, and work that takes too long is given up.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gossamer.serving.core.futures import settle

T = TypeVar("T")

SLOW_SECONDS = 1.0
"""Work that takes longer lets another thread begin with what waits behind it."""

IDLE_SECONDS = 30.0
"""A thread without work ends after so long; the next work starts another."""

JOIN_SECONDS = 2.0
"""So long `shutdown` waits for work that is under way."""


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)
    started: float = 0.0
    is_given_up: bool = False


class DaemonThreads(Executor):
    """One thread as long as work is quick, up to `most` beside those that are not.

    Work that takes longer than `limit_seconds` fails with `late()`; its thread goes on (there is no
    way to stop it) and ends with it. When all threads are lost that way, what waits fails too.
    """

    def __init__(
        self,
        name: str,
        *,
        limit_seconds: float = math.inf,
        late: Callable[[], Exception] = TimeoutError,
        most: int = 8,
        stack_bytes: int = 0,
    ) -> None:
        """`stack_bytes` is the size of the threads' stacks; 0: as all threads'."""
        self._name = name
        self._limit = limit_seconds
        self._late = late
        self._most = most
        self._stack_bytes = stack_bytes
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: dict[threading.Thread, _Job] = {}
        self._threads: list[threading.Thread] = []
        self._watch: threading.Thread | None = None
        self._is_open = True

    def submit(self, function: Callable[..., T], /, *args: Any, **named: Any) -> "Future[T]":
        """Do as `Executor.submit` does."""
        job = _Job(lambda: function(*args, **named))
        with self._changed:
            if not self._is_open:
                raise RuntimeError("no work is taken after shutdown")
            if not self._threads:
                self._add_thread()
            self._waiting.append(job)
            self._changed.notify_all()
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do as `Executor.shutdown` does, but wait for `JOIN_SECONDS` at most."""
        with self._changed:
            self._is_open = False
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            self._changed.notify_all()
        for job in dropped:
            job.future.cancel()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in list(self._threads) if wait else ():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _add_thread(self) -> None:
        if self._watch is None:
            watch = threading.Thread(
                target=self._look_after, name=f"{self._name}-watch", daemon=True
            )
            watch.start()
            self._watch = watch
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        if self._stack_bytes:
            # A setting of the process: a thread that another starts meanwhile may get as much,
            # which is only taken where it is used.
            before = threading.stack_size(self._stack_bytes)
            try:
                thread.start()
            finally:
                threading.stack_size(before)
        else:
            thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                result = job.work()
            except BaseException as error:
                settle(job.future, error=error)
            else:
                settle(job.future, result)
            # What was read must not live until the next work comes.
            del job
            result = None

    def _next(self) -> _Job | None:
        """The next work; None if this thread is not needed any more."""
        this = threading.current_thread()
        with self._changed:
            self._running.pop(this, None)
            while not self._waiting:
                if not self._is_open or len(self._threads) > 1:
                    self._threads.remove(this)
                    self._changed.notify_all()
                    return None
                if not self._changed.wait(IDLE_SECONDS) and not self._waiting:
                    self._threads.remove(this)
                    self._changed.notify_all()
                    return None
            job = self._running[this] = self._waiting.popleft()
            job.started = time.monotonic()
            self._changed.notify_all()
            return job

    def _look_after(self) -> None:
        """Give up what takes too long, and let others go on beside what is slow."""
        while True:
            with self._changed:
                while not self._running:
                    if not self._threads:
                        self._watch = None
                        return
                    self._changed.wait()
                lost = self._overdue(time.monotonic())
            for job in lost:
                settle(job.future, error=self._late())
            self._pause()

    def _overdue(self, now: float) -> list[_Job]:
        slow = [job for job in self._running.values() if now - job.started >= SLOW_SECONDS]
        lost = [job for job in slow if now - job.started >= self._limit and not job.is_given_up]
        for job in lost:
            job.is_given_up = True
        if self._waiting and len(slow) == len(self._threads):
            if len(self._threads) < self._most:
                with contextlib.suppress(RuntimeError):  # no more threads: those there are must do
                    self._add_thread()
            elif all(job.is_given_up for job in self._running.values()):
                lost += self._waiting
                self._waiting.clear()
        return lost

    def _pause(self) -> None:
        # Not on the condition: it is notified with each piece of work.
        time.sleep(min(SLOW_SECONDS, self._limit) / 4)
