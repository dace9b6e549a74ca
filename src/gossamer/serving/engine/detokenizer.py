"""Makes text of tokens, and tells events, on a thread of its own.

The engine's thread can then begin the next step at once. Its calls come in one queue, so that the
events of a request keep their order, and the final one comes last. The thread is woken once for all
calls of a step: each time it would contend with the engine's for the interpreter.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from gossamer.errors import GossamerError
from gossamer.serving.engine.output import RequestOutput

log = logging.getLogger(__name__)

MOST_BEHIND = 4096
"""With more calls than this to be made no step is begun: a receiver of events is too slow."""


class Detokenizer:
    """Makes the calls that tell of requests, one after the other."""

    def __init__(
        self,
        wake: Callable[[], None],
        on_fault: Callable[[RequestOutput], None],
        most_behind: int = MOST_BEHIND,
    ) -> None:
        """`wake` is called when it has caught up, `on_fault` for a request of which a token could
        not be told; both on its thread."""
        self._wake = wake
        self._on_fault = on_fault
        self._most_behind = most_behind
        self._calls: deque[tuple[RequestOutput, Callable[[], None]]] = deque()
        self._alarms: SimpleQueue[None] = SimpleQueue()
        """One for each time that the thread is to look for calls."""
        self._is_ending = False
        self._current: RequestOutput | None = None
        self._is_waited_for = False
        self._thread = threading.Thread(target=self._run, name="gossamer-detokenizer", daemon=True)

    def start(self) -> None:
        """Start its thread; called once."""
        self._thread.start()

    def tell(self, output: RequestOutput, call: Callable[[], None]) -> None:
        """Have `call` made after the next `flush`; it tells something of `output`.

        From any thread; returns at once.
        """
        self._calls.append((output, call))

    def flush(self) -> None:
        """Have all calls made that wait for it. From any thread; returns at once."""
        if self._calls:
            self._alarms.put(None)

    @property
    def is_behind(self) -> bool:
        """Return whether too much is still to be told; it calls `wake` then once it has caught up.

        On the engine's thread.
        """
        if len(self._calls) <= self._most_behind:
            return False
        self._is_waited_for = True
        # It may have caught up just before it was told that somebody waits.
        return len(self._calls) > self._most_behind // 2

    @property
    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def is_current_thread(self) -> bool:
        """Return whether a receiver of events asks this, on its thread."""
        return threading.current_thread() is self._thread

    def end(self) -> None:
        """End the thread when all is told that was to be told by now."""
        self._is_ending = True
        self._alarms.put(None)

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended, `seconds` at most; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def give_up(self, error: GossamerError) -> None:
        """On another thread, as its own hangs: end with `error` whatever was to be told."""
        outputs = dict.fromkeys([self._current] if self._current is not None else ())
        while (call := self._next()) is not None:
            outputs[call[0]] = None
        self.end()
        for output in outputs:
            output.fail(error)

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            self._alarms.get()
            # Asked before the last look: what was to be told before the end is there by then.
            is_ending = self._is_ending
            while (call := self._next()) is not None:
                self._make(*call)
        self._current = None

    def _next(self) -> tuple[RequestOutput, Callable[[], None]] | None:
        """The next call; None if there is none."""
        try:
            return self._calls.popleft()
        except IndexError:
            return None

    def _make(self, output: RequestOutput, call: Callable[[], None]) -> None:
        self._current = output
        try:
            call()
        except BaseException:
            log.exception("a token could not be told")
            output.give_up()
            self._on_fault(output)
        if self._is_waited_for and len(self._calls) <= self._most_behind // 2:
            self._is_waited_for = False
            self._wake()
