"""The arrays of a step in one piece of memory, brought to the device by one copy."""

from collections.abc import Hashable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gossamer.serving.device.device import Device

_ALIGNMENT = 16
"""Bytes: so that kernels are compiled once, for pointers of that alignment."""
_TYPES = {
    np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64,
          np.dtype(np.float32): torch.float32}  # fmt: skip


class DeviceArrays:
    """Keeps the memory of steps that are to find their arrays at the same places."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: dict[Hashable, tuple[Tensor, dict[str, Tensor]]] = {}

    def put(
        self, arrays: Mapping[str, npt.NDArray[np.generic]], key: Hashable
    ) -> dict[str, Tensor]:
        """Copy `arrays` to the device in the order of launches; returns them there.

        Steps of one `key` have arrays of the same names, shapes and types, and find them at the
        same places; None: new ones.
        """
        offsets = np.cumsum([0, *(-(-array.nbytes // _ALIGNMENT) for array in arrays.values())])
        # Made for each step: the copy of the one before may still be under way.
        host = self._device.host_empty(int(offsets[-1]) * _ALIGNMENT, torch.uint8)
        memory = host.numpy()
        places = list(zip(arrays.items(), (offsets * _ALIGNMENT).tolist(), strict=False))
        for (_, array), low in places:
            memory[low : low + array.nbytes] = (
                np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            )
        kept = self._kept.get(key) if key is not None else None
        if kept is None:
            target = torch.empty(len(host), dtype=torch.uint8, device=self._device.torch_device)
            views = {
                name: target[low : low + array.nbytes].view(_TYPES[array.dtype]).view(array.shape)
                for (name, array), low in places
            }
            kept = target, views
            if key is not None:
                self._kept[key] = kept
        target, views = kept
        assert len(target) == len(host), "steps of one key differ in their arrays"
        self._device.upload(target, host)
        return views
