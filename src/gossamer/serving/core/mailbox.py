"""Lets other threads reach the engine's thread."""

import threading
from collections.abc import Callable

from gossamer.errors import EngineStoppedError


class Mailbox:
    """Keeps messages to the engine's thread, which sleeps while there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[Callable[[], None]] = []
        self._has_news = False
        self._stopped = False
        self._is_closed = False

    @property
    def has_news(self) -> bool:
        """Tell whether something was posted since the last `take`."""
        return self._has_news

    def post(self, message: Callable[[], None] | None = None) -> None:
        """Leave a message, or only wake the thread.

        Raises `EngineStoppedError` for a message that would never be read.
        """
        with self._changed:
            if message is not None:
                if self._is_closed:
                    raise EngineStoppedError("the server is shutting down")
                self._messages.append(message)
            self._has_news = True
            self._changed.notify()

    def stop(self) -> None:
        """Have `wait` return False."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def take(self) -> list[Callable[[], None]]:
        """Return all messages so far, which are then gone."""
        with self._changed:
            messages, self._messages = self._messages, []
            self._has_news = False
            return messages

    def close(self) -> list[Callable[[], None]]:
        """Return all messages so far, and accept no more."""
        with self._changed:
            self._is_closed = True
        return self.take()

    def wait(self, *, busy: bool) -> bool:
        """Sleep until something is posted, unless `busy`; False once stopped."""
        with self._changed:
            while not (busy or self._has_news or self._stopped):
                self._changed.wait()
            return not self._stopped
