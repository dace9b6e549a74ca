"""Lets SIGTERM and SIGINT end the process, whatever hangs.

Python runs the handler of a signal on the main thread, between two of its instructions: a main
thread that waits for a disk, a kernel or a callback of the event loop never gets there. The number
of the signal, however, is written into a socket at once; here a thread of its own reads it, and
ends the process if nothing else has in time.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)

START_SECONDS = 2.0
"""The seconds that reporting Ctrl-C may take before there is anything to drain."""

FLUSH_SECONDS = 1.0
"""The seconds that the last words may take; their reader may hang too."""


class SignalWatch:
    """Watches for signals from `with` on; does nothing on a thread other than the main one, where
    no handler can be set."""

    def __init__(self, *, until_exit: bool = False) -> None:
        """`until_exit`: once a signal has come the whole process must end in time, and not only
        what happens inside of `with`."""
        self._until_exit = until_exit
        self._is_over = False
        self._limit: float | None = None
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._former_socket = -1
        self._former_handler: object = None
        self._is_set = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former_socket = signal.set_wakeup_fd(
                self._writer.fileno(), warn_on_full_buffer=False
            )
            # Only for signals with a handler in Python is anything written.
            self._former_handler = signal.signal(signal.SIGTERM, _nothing)
            self._is_set = True
            threading.Thread(target=self._watch, name="gossamer-signals", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        if self._is_set:
            signal.set_wakeup_fd(self._former_socket)
            signal.signal(signal.SIGTERM, self._former_handler)  # type: ignore[arg-type]
        else:
            self._reader.close()
        self._writer.close()

    def serve(self, limit: float) -> None:
        """Let the first signal leave `limit` seconds for an end in peace, and a second
        one ends the process at once. Before that, SIGTERM does."""
        self._limit = limit

    def _watch(self) -> None:
        first = self._signal(None)
        if first is None:
            self._reader.close()
            return
        if self._limit is None and first == signal.SIGTERM:
            os._exit(128 + first)
        limit = START_SECONDS if self._limit is None else self._limit
        deadline = time.monotonic() + limit
        if (second := self._signal(deadline)) is not None:
            end_now(128 + second, "stopped at once by a second signal")
        if self._is_over and not self._until_exit:
            return
        time.sleep(max(0.0, deadline - time.monotonic()))
        end_now(128 + first, f"something hangs; ended without it {limit:g} s after the signal")

    def _signal(self, deadline: float | None) -> int | None:
        """Wait for the next signal that ends a process; None at the deadline or if none can."""
        while True:
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            self._reader.settimeout(left)
            try:
                number = self._reader.recv(1)
            except TimeoutError:
                return None
            if not number:
                return None
            if number[0] in SIGNALS:
                return number[0]


def end_now(code: int, why: str) -> None:
    """Say why, flush what was said before, and end the process, whatever other threads do."""
    last = threading.Timer(FLUSH_SECONDS, os._exit, [code])
    last.daemon = True
    last.start()
    with contextlib.suppress(Exception):
        print(f"gossamer: {why}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        logging.shutdown()
    os._exit(code)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Leave the signal to the thread."""
