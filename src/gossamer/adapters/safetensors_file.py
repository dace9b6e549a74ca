"""A safetensors file read whole, into one piece of memory that all of its tensors are views of.

The library's reader copies each tensor once more, which for an adapter of hundreds of small ones
costs as much as reading them. What it checks is checked here too.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from gossamer.adapters.findings import Findings, Stamp, findings_about, stamp_of
from gossamer.adapters.safetensors_header import Damage, Header, Place, UnknownFormat, parse_header
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError

_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class SafetensorsFile:
    """The content of a file."""

    data: torch.Tensor
    """[bytes] all elements, one tensor behind the other."""
    header: Header
    findings: Findings

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, as views of `data`."""
        return {name: self.tensor(place) for name, place in self.header.places.items()}

    def tensor(self, place: Place) -> torch.Tensor:
        """What lies at one of the header's places, as a view of `data`."""
        piece = self.data[place.start : place.end]
        if place.start % place.dtype.itemsize:  # allowed, if rare: behind one of smaller elements
            piece = piece.clone()
        return piece.view(place.dtype).view(place.shape)

    def elements(self) -> torch.Tensor | None:
        """Those of all tensors in one, if all have the same number format."""
        return self.data.view(self.header.dtype) if self.header.dtype is not None else None


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read and check `path`; the memory is ours, so that later changes of the file do no harm.

    Raises:
        AdapterFormatError: no safetensors file, truncated or damaged; or it cannot be read.
        UnsupportedAdapterError: a number format other than those of `DTYPES`.
    """
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            content = _read_header(file, before.st_size)
            size = before.st_size - 8 - len(content)
            header = parse_header(content, size)
            data = torch.empty(size, dtype=torch.uint8)
            if file.readinto(bytes_of(data)) != size:
                raise Damage("the file became shorter while it was read")
            stamp = _stamp(before, os.fstat(file.fileno()))
    except Damage as error:
        raise AdapterFormatError(f"{path} is truncated or damaged: {error}") from None
    except UnknownFormat as error:
        raise UnsupportedAdapterError(f"{path}: {error}; save it as F32, F16 or BF16") from None
    except OSError as error:
        raise AdapterFormatError(f"cannot read {path}: {error.strerror}") from None
    return SafetensorsFile(data, header, findings_about(stamp))


def _stamp(before: os.stat_result, after: os.stat_result) -> Stamp | None:
    stamp = stamp_of(before)
    return stamp if stamp == stamp_of(after) else None


def bytes_of(data: torch.Tensor) -> memoryview:
    """The memory of a uint8 tensor."""
    return memoryview(data.numpy())  # type: ignore[arg-type]


def _read_header(file: BinaryIO, size: int) -> bytes:
    """The header of a file of `size` bytes."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise Damage("it is shorter than its header")
    header = file.read(length)
    if len(header) < length:
        raise Damage("the file became shorter while it was read")
    return header
