"""The few calls of CUDA that the device makes, in one object that tests replace."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class CudaEvent(Protocol):
    """A mark in a stream (`torch.cuda.Event`)."""

    def record(self, stream: Any) -> None:
        """Put the mark behind all that was launched on `stream`."""

    def query(self) -> bool:
        """Tell whether all before the mark is done; never blocks."""

    def synchronize(self) -> None:
        """Block the caller until all before the mark is done."""


class CudaStream(Protocol):
    """A queue of work, done in order (`torch.cuda.Stream`)."""

    def wait_event(self, event: Any) -> None:
        """Let what is launched from now on wait for `event`."""

    def wait_stream(self, stream: Any) -> None:
        """Let what is launched from now on wait for all that `stream` has now."""

    def synchronize(self) -> None:
        """Block the caller until all is done."""


class CapturedGraph(Protocol):
    """Work that was recorded once to be launched as one (`torch.cuda.CUDAGraph`)."""

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        """Record what is launched on the current stream from now on, and do none of it."""

    def capture_end(self) -> None:
        """Stop recording."""

    def replay(self) -> None:
        """Launch what was recorded on the current stream."""


class CudaApi(Protocol):
    """What `CudaDevice` needs of one GPU."""

    device: torch.device
    compute: CudaStream
    """The stream of steps; it is the current one of every thread unless another is in `use`."""

    def bind_thread(self) -> None:
        """Make this GPU the current one of the calling thread."""

    def new_stream(self) -> CudaStream:
        """Make a stream beside the steps'."""

    def new_event(self, *, blocking: bool = False) -> CudaEvent:
        """Make an event; with `blocking` a thread that waits for it sleeps."""

    def use(self, stream: CudaStream) -> AbstractContextManager[Any]:
        """Launch on `stream` within the context."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Launch a copy between host and device on the current stream."""

    def new_graph(self) -> CapturedGraph:
        """Make a graph to record into."""

    def new_graph_pool(self) -> Any:
        """Make memory that graphs share."""

    def empty(self, num_bytes: int) -> Tensor:
        """Reserve uint8 [num_bytes] on the GPU."""

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """Reserve [count] in host memory that the GPU reads without the host's help."""

    def free_bytes(self) -> int:
        """Return the bytes of the GPU that are free for this process."""


class TorchCuda:
    """Implements `CudaApi` through `torch.cuda`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bind_thread()
        self.compute: CudaStream = torch.cuda.default_stream(device)

    def bind_thread(self) -> None:
        """See `CudaApi.bind_thread`."""
        torch.cuda.set_device(self.device)

    def new_stream(self) -> CudaStream:
        """See `CudaApi.new_stream`."""
        stream: CudaStream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return stream

    def new_event(self, *, blocking: bool = False) -> CudaEvent:
        """See `CudaApi.new_event`."""
        event: CudaEvent = torch.cuda.Event(blocking=blocking)  # type: ignore[no-untyped-call]
        return event

    def use(self, stream: CudaStream) -> AbstractContextManager[Any]:
        """See `CudaApi.use`."""
        assert isinstance(stream, torch.cuda.Stream)
        return torch.cuda.stream(stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """See `CudaApi.copy`."""
        target.copy_(source, non_blocking=True)

    def new_graph(self) -> CapturedGraph:
        """See `CudaApi.new_graph`."""
        return torch.cuda.CUDAGraph()

    def new_graph_pool(self) -> Any:
        """See `CudaApi.new_graph_pool`."""
        return torch.cuda.graph_pool_handle()

    def empty(self, num_bytes: int) -> Tensor:
        """See `CudaApi.empty`."""
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        """See `CudaApi.pinned`."""
        # Threads that read adapters have another GPU as their current one at first.
        self.bind_thread()
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def free_bytes(self) -> int:
        """See `CudaApi.free_bytes`."""
        # What torch keeps of tensors that are gone, those of loading say, is free as well.
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free)
