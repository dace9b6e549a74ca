"""Computes on the processor: memory is one, and whatever was called is done when it returns."""

import mmap
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from gossamer.machine import usable_memory
from gossamer.serving.core.tickets import DoneTicket, Ticket
from gossamer.serving.device.device import Placeable

_GIB = 1024**3


class CpuDevice:
    """Implements `Device` on the processor."""

    overlaps = False
    usual_batch_tokens = 512
    usual_running = 64

    def __init__(self, backend: str, dtype: torch.dtype = torch.float32) -> None:
        self.torch_device = torch.device("cpu")
        self.backend = backend
        self.dtype = dtype
        self._launched = 0

    def bind_thread(self) -> None:
        """See `Device.bind_thread`: there is nothing to do."""

    def pool_memory(self, num_blocks: int, block_bytes: int) -> Tensor:
        """See `Device.pool_memory`. It takes memory from the system only when first written."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(num_blocks * block_bytes, dtype=torch.uint8)
        pool = mmap.mmap(-1, num_blocks * block_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A step reads rows all over the pool; with small pages it would wait for address
        # translation.
        pool.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(pool, dtype=torch.uint8)

    def memory_for_pool(self) -> int:
        """See `Device.memory_for_pool`: what is free, or what the container leaves."""
        return usable_memory()

    def usual_memory(self, kept_free: int) -> int:
        """See `Device.usual_memory`: a quarter of what is free, at most 4 GiB."""
        return min(4 * _GIB, max(0, self.memory_for_pool() - kept_free) // 4)

    def host_empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """See `Device.host_empty`."""
        return torch.empty(count, dtype=dtype)

    def upload(self, target: Tensor, source: Tensor) -> Ticket:
        """See `Device.upload`."""
        if target.data_ptr() != source.data_ptr():
            target.copy_(source)
        return DoneTicket(target)

    def fetch(self, tensor: Tensor) -> "CpuFetch":
        """See `Device.fetch`: the tensor itself."""
        return CpuFetch(tensor)

    def graph(self, key: Hashable, body: Callable[[], None]) -> Callable[[], None]:
        """See `Device.graph`: `body` itself, of which nothing is kept."""
        return body

    def forget_graphs(self) -> None:
        """See `Device.forget_graphs`: there are none."""

    def copier(self, pool: Tensor) -> "CpuCopier":
        """See `Device.copier`."""
        return CpuCopier(pool)

    def step_launched(self) -> None:
        """See `Device.step_launched`."""
        self._launched += 1

    def launched(self) -> int:
        """See `Device.launched`."""
        return self._launched


class CpuFetch:
    """Implements `Fetch` where device and host are one."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def result(self) -> Tensor:
        """See `Fetch.result`."""
        return self._tensor


class CpuCopier:
    """Implements `Copier`: copies at once, on the caller's thread."""

    def __init__(self, pool: Tensor) -> None:
        self.pool = pool

    def place(self, rows: Placeable[Any], blocks: list[int], after: int) -> Ticket:
        """See `Copier.place`. Steps that were launched are done, so `after` is no matter."""
        return DoneTicket(rows.place(self.pool, blocks))
