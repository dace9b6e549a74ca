"""Makes text of tokens, and tells events, on a thread of its own.

The engine's thread can then begin the next step at once. Its calls come in one queue, so that the
events of a request keep their order, and the final one comes last.
"""

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

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
        self._calls: SimpleQueue[tuple[RequestOutput, Callable[[], None]] | None] = SimpleQueue()
        self._current: RequestOutput | None = None
        self._is_waited_for = False
        self._thread = threading.Thread(target=self._run, name="gossamer-detokenizer", daemon=True)

    def start(self) -> None:
        """Start its thread; called once."""
        self._thread.start()

    def tell(self, output: RequestOutput, call: Callable[[], None]) -> None:
        """Have `call` made, which tells something of `output`. From any thread; returns at once."""
        self._calls.put((output, call))

    @property
    def is_behind(self) -> bool:
        """Return whether too much is still to be told; it calls `wake` then once it has caught up.

        On the engine's thread.
        """
        if self._calls.qsize() <= self._most_behind:
            return False
        self._is_waited_for = True
        # It may have caught up just before it was told that somebody waits.
        return self._calls.qsize() > self._most_behind // 2

    @property
    def is_alive(self) -> bool:
        """Return whether its thread runs."""
        return self._thread.is_alive()

    def is_current_thread(self) -> bool:
        """Return whether a receiver of events asks this, on its thread."""
        return threading.current_thread() is self._thread

    def end(self) -> None:
        """End the thread when all is told that was to be told by now."""
        self._calls.put(None)

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended, `seconds` at most; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def give_up(self, error: GossamerError) -> None:
        """On another thread, as its own hangs: end with `error` whatever was to be told."""
        outputs = dict.fromkeys([self._current] if self._current is not None else ())
        try:
            while True:
                if (call := self._calls.get_nowait()) is not None:
                    outputs[call[0]] = None
        except Empty:
            self.end()
        for output in outputs:
            output.fail(error)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._current, tell = call
            try:
                tell()
            except BaseException:
                log.exception("a token could not be told")
                self._current.give_up()
                self._on_fault(self._current)
            if self._is_waited_for and self._calls.qsize() <= self._most_behind // 2:
                self._is_waited_for = False
                self._wake()
        self._current = None
