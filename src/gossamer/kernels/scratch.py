"""Memory that a kernel leaves for the next one, which grows as steps need more."""

import torch
from torch import Tensor


class ScratchMemory:
    """Float32 memory that the launches of one stream share: each is done with it when it ends.

    Where it grows, the smaller memory is kept: a captured graph may still use it. It grows by
    factors of two, so that all of it together is less than twice the largest.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: list[Tensor] = []

    def take(self, elements: int) -> Tensor:
        """Return `elements` elements or more, which hold anything."""
        if not self._kept or self._kept[-1].numel() < elements:
            size = 1 << max(0, elements - 1).bit_length()
            self._kept.append(torch.empty(size, dtype=torch.float32, device=self._device))
        return self._kept[-1]
