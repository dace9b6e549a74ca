"""Computes on one NVIDIA GPU: steps on one stream, copies of adapters on another, graphs."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from gossamer.serving.core.tickets import DoneTicket, Ticket
from gossamer.serving.device.cuda_api import CapturedGraph, CudaApi, CudaEvent
from gossamer.serving.device.cuda_copies import CudaCopier, StepEvents

_MIB = 1024**2

WORKSPACE_BYTES = 512 * _MIB
"""Left free for what a step computes with: some 120 MiB of activations for 2,048 tokens of an 8B
model, 130 MiB of logits for 256 rows, and what cuBLAS takes."""
GRAPH_BYTES = 512 * _MIB
"""Left free for graphs and their memory, which all of them share."""
USUAL_SHARE = 0.9
"""The share of what the weights leave that the pool takes by default."""


def most_for_pool(free: int) -> int:
    """Return what a pool may take of `free` bytes; steps and graphs need the others."""
    return max(0, free - WORKSPACE_BYTES - GRAPH_BYTES)


def usual_share(free: int) -> int:
    """Return what a pool takes by default of `free` bytes beside the weights."""
    return min(int(max(0, free) * USUAL_SHARE), most_for_pool(free))


class CudaDevice:
    """Implements `Device` on a GPU."""

    overlaps = True
    usual_batch_tokens = 2048
    usual_running = 256

    def __init__(self, cuda: CudaApi, backend: str, dtype: torch.dtype) -> None:
        """`cuda`: the calls of CUDA, of one GPU."""
        # Answers in float32 are compared with a processor's: no products in TF32.
        torch.set_float32_matmul_precision("highest")
        self.torch_device = cuda.device
        self.backend = backend
        self.dtype = dtype
        self._cuda = cuda
        self._steps = StepEvents(cuda)
        self._graphs: dict[Hashable, CapturedGraph] = {}
        self._graph_stream = cuda.new_stream()
        self._graph_pool = cuda.new_graph_pool()

    def bind_thread(self) -> None:
        """See `Device.bind_thread`."""
        self._cuda.bind_thread()

    def pool_memory(self, num_blocks: int, block_bytes: int) -> Tensor:
        """See `Device.pool_memory`."""
        return self._cuda.empty(num_blocks * block_bytes)

    def memory_for_pool(self) -> int:
        """See `Device.memory_for_pool`: what is free, without room for steps and graphs."""
        return most_for_pool(self._cuda.free_bytes())

    def usual_memory(self, kept_free: int) -> int:
        """See `Device.usual_memory`: nine tenths of what is free."""
        return usual_share(self._cuda.free_bytes() - kept_free)

    def host_empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """See `Device.host_empty`: pinned memory."""
        return self._cuda.pinned(count, dtype)

    def upload(self, target: Tensor, source: Tensor) -> Ticket:
        """See `Device.upload`."""
        if target.data_ptr() == source.data_ptr():
            return DoneTicket(target)
        self._cuda.copy(target, source)
        return CudaUpload(self._cuda, target)

    def fetch(self, tensor: Tensor) -> "CudaFetch":
        """See `Device.fetch`."""
        host = self._cuda.pinned(tensor.numel(), tensor.dtype).view(tensor.shape)
        self._cuda.copy(host, tensor)
        return CudaFetch(self._cuda, host)

    def graph(self, key: Hashable, body: Callable[[], None]) -> Callable[[], None]:
        """See `Device.graph`: `body` runs once, which compiles kernels, and is then captured."""
        if key not in self._graphs:
            self._graphs[key] = self._capture(body)
        return self._graphs[key].replay

    def forget_graphs(self) -> None:
        """See `Device.forget_graphs`."""
        # One of them may be running.
        self._cuda.compute.synchronize()
        self._graphs.clear()

    def copier(self, pool: Tensor) -> CudaCopier:
        """See `Device.copier`."""
        return CudaCopier(self._cuda, pool, self._steps)

    def step_launched(self) -> None:
        """See `Device.step_launched`."""
        self._steps.record()

    def launched(self) -> int:
        """See `Device.launched`."""
        return self._steps.launched

    def _capture(self, body: Callable[[], None]) -> CapturedGraph:
        graph = self._cuda.new_graph()
        # Captures are not allowed on the stream of steps, which is CUDA's default one.
        self._graph_stream.wait_stream(self._cuda.compute)
        with self._cuda.use(self._graph_stream):
            body()
            # What other threads do meanwhile (copies, pinned memory) is no part of it, and allowed.
            graph.capture_begin(self._graph_pool, "thread_local")
            try:
                body()
            finally:
                graph.capture_end()
        self._cuda.compute.wait_stream(self._graph_stream)
        return graph


class CudaFetch:
    """Implements `Fetch`: a copy on the stream of steps, and an event behind it."""

    def __init__(self, cuda: CudaApi, host: Tensor) -> None:
        self._host = host
        self._event = _mark(cuda)

    def result(self) -> Tensor:
        """See `Fetch.result`."""
        self._event.synchronize()
        return self._host


class CudaUpload:
    """The ticket of an upload. What is launched behind it on the stream of steps sees it anyway."""

    def __init__(self, cuda: CudaApi, target: Tensor) -> None:
        self._target = target
        self._event = _mark(cuda)

    @property
    def done(self) -> bool:
        """See `Ticket.done`."""
        return self._event.query()

    def result(self) -> Tensor:
        """See `Ticket.result`: the target."""
        return self._target

    def wait(self) -> None:
        """Do nothing: it is on the same stream as the steps."""

    def join(self) -> None:
        """See `Ticket.join`: the source may be written again then."""
        self._event.synchronize()


def _mark(cuda: CudaApi) -> CudaEvent:
    event = cuda.new_event()
    event.record(cuda.compute)
    return event
