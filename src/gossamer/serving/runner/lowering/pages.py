"""The blocks of a step's sequences as lists, for attention that takes sequences as a whole."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.kernels.paged_attention import SequencePages
from gossamer.serving.device.device import Device
from gossamer.serving.runner.lowering.step import HostStep, IntArray


@dataclass(frozen=True, slots=True)
class PageLists:
    """The fields of `SequencePages` before they are brought to where they are read."""

    first_token: IntArray
    first_page: IntArray
    last_page_tokens: IntArray
    pages: IntArray
    is_replayed: bool

    def placed(self, device: Device, pages: Tensor) -> SequencePages:
        """Return them for the kernels, with `pages` as they are on the device already."""
        return SequencePages(
            first_token=_host(device, self.first_token),
            first_page=_host(device, self.first_page),
            last_page_tokens=_host(device, self.last_page_tokens),
            pages=pages,
            is_replayed=self.is_replayed,
        )


def page_lists(step: HostStep, block_tokens: int, size: int | None) -> PageLists | None:
    """Return the lists of `step`; None if a sequence does not begin with its first place.

    size: sequences to which the step is padded; None: it is like no other. A sequence that only
    fills the step up is said to have its one key in block 0: what it gets of it is not used.
    """
    if step.sequence_start.any():
        return None
    lengths = step.places[np.array(step.starts[1:]) - 1] + 1
    counts = -(-lengths // block_tokens)
    last = lengths - (counts - 1) * block_tokens
    listed = np.arange(step.block_tables.shape[1])[None] < counts[:, None]
    pages = step.block_tables[listed]
    first_token = np.array(step.starts)
    if size is not None:
        missing = size - len(counts)
        counts, last = (np.append(each, np.ones(missing, np.int32)) for each in (counts, last))
        room = _room(size, int(counts.sum()))
        pages = np.append(pages, np.zeros(room - len(pages), np.int32))
        first_token = np.arange(size + 1)
    return PageLists(
        first_token=first_token.astype(np.int32),
        first_page=np.append(0, np.cumsum(counts)).astype(np.int32),
        last_page_tokens=last.astype(np.int32),
        pages=pages.astype(np.int32),
        is_replayed=size is not None,
    )


def _room(size: int, needed: int) -> int:
    """Places for blocks of a padded step: few different numbers."""
    room = 16 * size
    while room < needed:
        room *= 4
    return room


def _host(device: Device, array: npt.NDArray[np.int32]) -> Tensor:
    """`array` in host memory from which the device copies without the host waiting for it."""
    host = device.host_empty(len(array), torch.int32)
    host.numpy()[:] = array
    return host
