"""Joins the processes of a tensor-parallel model: who is who, and how they add and gather.

Processes that Gossamer starts itself meet through a file in a private folder and talk over the
loopback interface; under torchrun (`RANK` is set) they meet where torchrun says.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from gossamer.children import STORE
from gossamer.cluster.tensor_parallel.channel import ControlChannel
from gossamer.errors import SettingError
from gossamer.serving.shard import Shard

START_SECONDS = 3600.0
"""So long the ranks wait for each other while the model is loaded."""

_BACKENDS = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
"""What is said from processor to processor, and from GPU to GPU."""


@dataclass(frozen=True, slots=True)
class ProcessRanks:
    """The process groups of one rank, and what it does with them."""

    rank: int
    size: int
    compute: Any
    """The group of steps."""
    control: ControlChannel
    loads: Any
    """The gloo group of the threads that read adapters."""
    merges: Any
    """The gloo group of the threads that merge adapters."""

    fail: Callable[[Exception], Exception] = lambda error: error
    """Says what is to be raised where a rank does not answer."""

    def failing_with(self, fail: Callable[[Exception], Exception]) -> "ProcessRanks":
        """Return the same ranks, whose steps raise what `fail` makes of errors."""
        return replace(self, fail=fail)

    @property
    def shard(self) -> Shard:
        """Return the rank as the model sees it."""
        return Shard(self.rank, self.size, self._all_reduce, self._gather, self._all_gather)

    def least(self, number: int) -> int:
        """Return the smallest of the numbers of all ranks; at start only."""
        return -self._at_start(-number)

    def meet(self) -> None:
        """Wait until all ranks are here; at start only."""
        self._at_start(0)

    def most(self, numbers: list[int]) -> list[int]:
        """Return the largest of the numbers of all ranks, one by one; on the loading thread."""
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.loads)
        return [int(number) for number in tensor]

    def add_up(self, tensor: Tensor) -> None:
        """Add up a tensor of all ranks in place; on the loading thread."""
        host = tensor.cpu()
        dist.all_reduce(host, group=self.loads)
        tensor.copy_(host)

    def any_failed(self, failed: bool) -> bool:
        """Whether any rank has failed; on the merging thread."""
        return bool(_most(int(failed), self.merges))

    def any_differs(self, differs: bool) -> bool:
        """Whether any rank differs from rank 0; between two steps."""
        return bool(_most(int(differs), self.compute))

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()

    def _at_start(self, number: int) -> int:
        try:
            return _most(number)
        except RuntimeError as error:
            raise self.fail(error) from error

    def _all_reduce(self, tensor: Tensor) -> None:
        try:
            dist.all_reduce(tensor, group=self.compute)
        except RuntimeError as error:
            raise self.fail(error) from error

    def _all_gather(self, part: Tensor) -> Tensor:
        """See `Shard.all_gather`."""
        parts = part.new_empty(self.size, *part.shape)
        try:
            dist.all_gather(list(parts), part.contiguous(), group=self.compute)
        except RuntimeError as error:
            raise self.fail(error) from error
        return parts

    def _gather(self, part: Tensor, total: int) -> Tensor:
        """See `Shard.gather`: parts as torch's chunks divide `total`, the last may be shorter."""
        width = -(-total // self.size)
        own = torch.nn.functional.pad(part, (0, width - part.shape[-1])).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)] if self.rank == 0 else None
        try:
            dist.gather(own, parts, dst=0, group=self.compute)
        except RuntimeError as error:
            raise self.fail(error) from error
        if parts is None:
            return part.new_zeros(*part.shape[:-1], total)
        return torch.cat(parts, dim=-1)[..., :total]


def _most(number: int, group: Any = None) -> int:
    """The largest of the numbers of all ranks; the group of all has the long time limit."""
    tensor = torch.tensor([number], dtype=torch.int64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
    return int(tensor)


def require_no_group() -> None:
    """Raise `SettingError` if this process is in a group already."""
    if dist.is_initialized():
        raise SettingError(
            "this process is in a torch.distributed group already: one process can hold one "
            "tensor-parallel model; close the other one first"
        )


def join(seconds: float, load_seconds: float) -> ProcessRanks:
    """Join the others as the environment says.

    seconds: after which one that does not answer counts as lost; load_seconds: the same for one
    that reads an adapter. Raises `SettingError` if this process is in a group already.
    """
    require_no_group()
    start = timedelta(seconds=START_SECONDS)
    if STORE not in os.environ:
        dist.init_process_group(_BACKENDS, timeout=start)
    else:
        size = int(os.environ["WORLD_SIZE"])
        dist.init_process_group(
            _BACKENDS,
            store=FileStore(os.environ[STORE], size),
            rank=int(os.environ["RANK"]),
            world_size=size,
            timeout=start,
        )

    def group(seconds: float, backend: str = "gloo") -> Any:
        return dist.new_group(backend=backend, timeout=timedelta(seconds=seconds))

    return ProcessRanks(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        compute=group(seconds, _BACKENDS),
        control=ControlChannel(group(seconds)),
        loads=group(load_seconds),
        merges=group(START_SECONDS),
    )
