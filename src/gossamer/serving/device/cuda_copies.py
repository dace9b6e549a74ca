"""Copies adapters into the pool beside steps, each behind the last that used its blocks."""

import threading
from collections import deque
from typing import Any

from torch import Tensor

from gossamer.serving.core.tickets import Ticket
from gossamer.serving.device.cuda_api import CudaApi, CudaEvent, CudaStream
from gossamer.serving.device.device import Placeable


class StepEvents:
    """Numbers the steps that were launched, and keeps an event for each that is not done.

    Written by the engine's thread, read by the copying one.
    """

    def __init__(self, cuda: CudaApi) -> None:
        self._cuda = cuda
        self._lock = threading.Lock()
        self._events: deque[tuple[int, CudaEvent]] = deque()
        self.launched = 0

    def record(self) -> None:
        """Number a step all of which has been launched."""
        event = self._cuda.new_event()
        event.record(self._cuda.compute)
        with self._lock:
            self.launched += 1
            self._events.append((self.launched, event))
            while len(self._events) > 1 and self._events[0][1].query():
                self._events.popleft()

    def of(self, number: int) -> CudaEvent | None:
        """Return an event behind step `number`; None if the step is known to be done."""
        with self._lock:
            assert number <= self.launched, f"step {number} was not launched"
            return next((event for step, event in self._events if step == number), None)


class CudaCopier:
    """Implements `Copier` with a stream of its own."""

    def __init__(self, cuda: CudaApi, pool: Tensor, steps: StepEvents) -> None:
        self.pool = pool
        self._cuda = cuda
        self._steps = steps
        self._stream = cuda.new_stream()
        self._lock = threading.Lock()
        self._under_way: list[CudaTicket] = []

    def place(self, rows: Placeable[Any], blocks: list[int], after: int) -> Ticket:
        """See `Copier.place`."""
        self._cuda.bind_thread()
        # One at a time: the event of a copy must not lie behind half of another one.
        with self._lock, self._cuda.use(self._stream):
            event = self._steps.of(after)
            if event is not None:
                self._stream.wait_event(event)
            try:
                found = rows.place(self.pool, blocks)
                ticket = CudaTicket(self._cuda, self._stream, rows, found)
            except BaseException:
                # Its blocks go to others now, and a part of it may be on the way there.
                self._stream.synchronize()
                raise
            self._under_way = [other for other in self._under_way if other.is_under_way()]
            self._under_way.append(ticket)
        return ticket


class CudaTicket:
    """Implements `Ticket` by an event; holds the rows until it has passed."""

    def __init__(self, cuda: CudaApi, stream: CudaStream, rows: object, found: object) -> None:
        """Take all that `stream` has now for the copy of `rows`."""
        self._compute = cuda.compute
        self._rows: object | None = rows
        self._found = found
        # A thread that waits for a copy shall not take a processor from the engine's.
        self._event = cuda.new_event(blocking=True)
        self._event.record(stream)

    @property
    def done(self) -> bool:
        """See `Ticket.done`."""
        if self._rows is not None and self._event.query():
            self._rows = None
        return self._rows is None

    def is_under_way(self) -> bool:
        """Tell whether its rows may be read still; one that failed counts as under way."""
        try:
            return not self.done
        except Exception:
            return True

    def result(self) -> Any:
        """See `Ticket.result`."""
        return self._found

    def wait(self) -> None:
        """See `Ticket.wait`."""
        self._compute.wait_event(self._event)

    def join(self) -> None:
        """See `Ticket.join`."""
        self._event.synchronize()
