"""Ctrl-C and SIGTERM during a run: finish the step, save, stop. A second one stops at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped by a signal; what it had learnt is in `checkpoint`."""

    def __init__(self, output: Path, checkpoint: Path | None) -> None:
        super().__init__(f"interrupted; go on with: gossamer tune --output {output} --resume")
        self.output = output
        self.checkpoint = checkpoint


class StopRequest:
    """Set by the first signal; read by the run after each step."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        # Not print: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(2, b"\nstopping after this step; once more stops at once\n")


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch the signals inside; outside the main thread, where none arrive, do nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
