"""CUDA without a GPU: streams whose work is done when the test says so, in an order it chooses."""

import random
import threading
from collections import deque
from contextlib import contextmanager

import torch


class FakeEvent:
    """Passed once its newest mark was reached."""

    def __init__(self, cuda):
        self._cuda = cuda
        self.recorded = self.reached = 0

    def record(self, stream):
        self.recorded += 1
        stream.push(lambda mark=self.recorded: self._reach(mark))

    def _reach(self, mark):
        self.reached = max(self.reached, mark)

    def query(self):
        return self.reached >= self.recorded

    def synchronize(self):
        self._cuda.run_until(self.query)


class FakeStream:
    """Work in order; an item that has to wait for another stream's event holds up the rest."""

    def __init__(self, cuda):
        self._cuda = cuda
        self._work = deque()
        self.is_capturing = None

    def push(self, act):
        if self.is_capturing is not None:
            self.is_capturing.append(act)
        else:
            self._work.append((lambda: True, act))

    def wait_event(self, event):
        mark = event.recorded
        self._work.append((lambda: event.reached >= mark, lambda: None))

    def wait_stream(self, stream):
        event = FakeEvent(self._cuda)
        event.record(stream)
        self.wait_event(event)

    def synchronize(self):
        self._cuda.run_until(lambda: not self._work)

    @property
    def is_idle(self):
        return not self._work

    def advance(self):
        """Do the next item; False if there is none that can be done."""
        if not self._work or not self._work[0][0]():
            return False
        self._work.popleft()[1]()
        return True


class FakeGraph:
    """Keeps what is pushed to the stream in use while it captures."""

    def __init__(self, cuda):
        self._cuda = cuda
        self._acts = []
        self.options = None

    def capture_begin(self, pool, capture_error_mode):
        assert self._cuda.current is not self._cuda.compute, "the default stream cannot capture"
        self.options = (pool, capture_error_mode)
        self._cuda.current.is_capturing = self._acts

    def capture_end(self):
        self._cuda.current.is_capturing = None

    def replay(self):
        for act in self._acts:
            self._cuda.current.push(act)


class FakeCuda:
    """Implements `CudaApi` in host memory."""

    def __init__(self, seed=0, free=8 * 1024**3):
        # Each thread has a current stream of its own, as in CUDA.
        self._threads = threading.local()
        self._lock = threading.RLock()
        self.device = torch.device("cpu")
        self.rng = random.Random(seed)
        self.streams = []
        self.free = free
        self.bound = 0
        self.graphs = []
        self.compute = self.new_stream()

    def bind_thread(self):
        self.bound += 1

    def new_stream(self):
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    def new_event(self, *, blocking=False):
        return FakeEvent(self)

    @property
    def current(self):
        return getattr(self._threads, "current", self.compute)

    @contextmanager
    def use(self, stream):
        former, self._threads.current = self.current, stream
        try:
            yield
        finally:
            self._threads.current = former

    def copy(self, target, source):
        self.current.push(torch.inference_mode()(lambda: target.copy_(source)))

    def new_graph(self):
        self.graphs.append(FakeGraph(self))
        return self.graphs[-1]

    def new_graph_pool(self):
        return "one pool"

    def empty(self, num_bytes):
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def pinned(self, count, dtype):
        return torch.zeros(count, dtype=dtype)

    def free_bytes(self):
        return self.free

    def advance(self):
        """Do one item of a stream chosen at random; False if nothing can be done."""
        with self._lock:
            order = self.rng.sample(self.streams, len(self.streams))
            return any(stream.advance() for stream in order)

    def run_until(self, is_reached=lambda: False):
        """Go on until that, or the end; waiting for what never comes is a dead lock."""
        while not is_reached():
            with self._lock:
                if not self.advance():
                    assert all(stream.is_idle for stream in self.streams), "streams wait for ever"
                    return
