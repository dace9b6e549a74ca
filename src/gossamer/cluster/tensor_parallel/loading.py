"""How the ranks load one adapter together: each packs its share, and they agree on its size."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from gossamer.adapters.kinds.adapter import Adapter
from gossamer.errors import AdapterReadError, AdapterReplacedError
from gossamer.serving.packing.packer import HostAdapter

_FINE, _FAILED, _REPLACED = range(3)


class Agreement(Protocol):
    """What the ranks do together on their loading threads, in one order."""

    def most(self, numbers: list[int]) -> list[int]:
        """Return the largest of the numbers of all ranks, one by one."""

    def add_up(self, tensor: Tensor) -> None:
        """Add up a tensor of all ranks, in place."""


class SharePacker(Protocol):
    """Packs the share of one rank; see `Packer`."""

    def sums_of(self, adapter: Adapter) -> Tensor | None:
        """Return the rank's part of what packing needs the sum of over all ranks, if anything."""

    def pack(self, adapter: Adapter, sums: Tensor | None = None) -> HostAdapter:
        """Lay out the rank's share."""


def load_together(
    read: Callable[[], Adapter],
    name: str,
    packer: SharePacker,
    ranks: Agreement,
    keep: Callable[[HostAdapter], None] = lambda share: None,
) -> tuple[HostAdapter, int]:
    """Read an adapter and pack this rank's share of it; returns that and the blocks of the largest.

    `keep` takes the share before the others know that it is there.

    All ranks call it for the same adapters in the same order. An adapter that one of them cannot
    have is none: raises that rank's own error there, and an `AdapterError` on the others.
    """
    error: Exception | None = None
    adapter: Adapter | None = None
    sums: Tensor | None = None
    try:
        adapter = read()
        sums = packer.sums_of(adapter)
    except Exception as failure:
        error = failure
    _agree(name, error, ranks, [])
    assert adapter is not None
    if sums is not None:
        ranks.add_up(sums)
    share: HostAdapter | None = None
    try:
        share = packer.pack(adapter, sums)
        keep(share)
    except Exception as failure:
        error = failure
    (num_blocks,) = _agree(name, error, ranks, [0 if share is None else share.num_blocks])
    assert share is not None
    return share, num_blocks


def _agree(name: str, error: Exception | None, ranks: Agreement, numbers: list[int]) -> list[int]:
    """Return the largest of the numbers of all ranks; raises if one of them has failed."""
    own = _FINE if error is None else _FAILED
    if isinstance(error, AdapterReplacedError):
        own = _REPLACED
    worst, *largest = ranks.most([own, *numbers])
    if error is not None:
        raise error
    if worst == _REPLACED:
        raise AdapterReplacedError(f"adapter {name} differs from rank to rank; was it replaced?")
    if worst == _FAILED:
        raise AdapterReadError(
            f"adapter {name} could not be loaded on every rank; see the server's log"
        )
    return largest
