"""States what the runner and the memory ask of the device that computes steps.

Work on a device runs in the order in which it was launched. Where `overlaps` is true, the host goes
on meanwhile, and three rules keep it from harm:

* what a step is to read is uploaded (`upload`) before the step is launched, and the host writes the
  source of an upload again only after `join` of its ticket;
* what a step gives is read through `fetch`;
* a copy into blocks (`Copier.place`) is told the number of the step that may have used these blocks
  last (`launched` when they were given back), and steps use what it writes once its ticket is done.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from gossamer.serving.core.tickets import Ticket

T_co = TypeVar("T_co", covariant=True)


class Fetch(Protocol):
    """A tensor of the device on its way to the host."""

    def result(self) -> Tensor:
        """Wait for it and return it, in host memory."""


class Placeable(Protocol[T_co]):
    """What can be copied into blocks: an adapter in host memory."""

    def place(self, pool: Tensor, blocks: list[int]) -> T_co:
        """Copy it into `blocks` of the pool's bytes; returns what finds it there.

        Copies go through `Tensor.copy_(..., non_blocking=True)` or its like on the current stream;
        nothing of the pool is read back.
        """


class Copier(Protocol):
    """Copies adapters into the blocks of one pool. Called on the copying thread and the engine's.

    A copy that fails has stopped writing when `place` raises.
    """

    pool: Tensor
    """uint8 [num_blocks * block_bytes]"""

    def place(self, rows: Placeable[Any], blocks: list[int], after: int) -> Ticket:
        """Begin to copy `rows` into `blocks`, behind step number `after` (0: behind none).

        `rows` are kept until the copy is done.
        """


class Device(Protocol):
    """What computes steps: one CPU, or one GPU."""

    torch_device: torch.device
    dtype: torch.dtype
    """The number format of weights, keys and values."""
    backend: str
    """The kernels' backend: cpu, reference or triton."""
    overlaps: bool
    """Whether a step that was launched runs while the host goes on."""
    usual_batch_tokens: int
    """The most tokens of a step, where no setting says it."""
    usual_running: int
    """The most requests computed at a time, where no setting says it."""

    def bind_thread(self) -> None:
        """Make it the calling thread's device; a thread that computes on it calls this first."""

    def pool_memory(self, num_blocks: int, block_bytes: int) -> Tensor:
        """Reserve the pool: uint8 [num_blocks * block_bytes], aligned to 256 bytes at least."""

    def memory_for_pool(self) -> int:
        """Return the bytes that a pool may take now; what steps need beside it is left out."""

    def usual_memory(self, kept_free: int) -> int:
        """Return the bytes that a pool takes by default, `kept_free` bytes left for others."""

    def host_empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return a new tensor [count] in host memory from which the device copies fast."""

    def upload(self, target: Tensor, source: Tensor) -> Ticket:
        """Copy `source`, in host memory, to `target`, on the device, in the order of launches.

        Nothing is copied where both are the same memory.
        """

    def fetch(self, tensor: Tensor) -> Fetch:
        """Begin to bring `tensor` to the host, as it is behind all that was launched so far."""

    def graph(self, key: Hashable, body: Callable[[], None]) -> Callable[[], None]:
        """Return what does `body` again and again with little work of the host.

        It may be called at once, and any number of times; one that was made for `key` before is
        returned again and `body` then ignored. `body` must read and write the same memory each
        time, allocate nothing that outlives it, and not wait for the device. It may be run here
        once or more, so running it twice must do no harm.
        """

    def forget_graphs(self) -> None:
        """Forget all graphs: the memory that they use is used otherwise from now on."""

    def copier(self, pool: Tensor) -> Copier:
        """Return what copies adapters into the blocks of `pool`."""

    def step_launched(self) -> None:
        """Count a step; called by the runner when all of it, uploads too, has been launched, and
        also when launching it has failed: a part of it may run."""

    def launched(self) -> int:
        """Return the number of the step that was launched last; 0 before the first."""
