"""A safetensors file read whole, into one piece of memory that all of its tensors are views of.

The library's reader copies each tensor once more, which for an adapter of hundreds of small ones
costs as much as reading them. What it checks is checked here too.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gossamer.errors import AdapterFormatError, UnsupportedAdapterError

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Number formats that adapters come in."""

_MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in `SafetensorsFile.data`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int
    """In bytes."""


@dataclass(frozen=True)
class SafetensorsFile:
    """The content of a file."""

    data: torch.Tensor
    """[bytes] all elements, one tensor behind the other."""
    places: dict[str, Place]
    """By name, in the order of `data`."""
    metadata: dict[str, str]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, as views of `data`."""
        typed = {dtype: self._as(dtype) for dtype in {p.dtype for p in self.places.values()}}
        return {name: self._view(place, typed) for name, place in self.places.items()}

    def elements(self) -> torch.Tensor | None:
        """Those of all tensors in one, if all have the same number format."""
        dtypes = {place.dtype for place in self.places.values()}
        return self._as(dtypes.pop()) if len(dtypes) == 1 else None

    def _as(self, dtype: torch.dtype) -> torch.Tensor:
        return self.data[: len(self.data) // dtype.itemsize * dtype.itemsize].view(dtype)

    def _view(self, place: Place, typed: dict[torch.dtype, torch.Tensor]) -> torch.Tensor:
        size = place.dtype.itemsize
        if place.start % size:  # allowed, if rare: behind a tensor of smaller elements
            elements = self.data[place.start : place.end].clone().view(place.dtype)
        else:
            elements = typed[place.dtype][place.start // size : place.end // size]
        return elements.view(place.shape)


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read and check `path`; the memory is ours, so that later changes of the file do no harm.

    Raises:
        AdapterFormatError: no safetensors file, truncated or damaged; or it cannot be read.
        UnsupportedAdapterError: a number format other than those of `DTYPES`.
    """
    try:
        with path.open("rb") as file:
            header, size = _read_header(file)
            places = _places(path, header, size)
            data = torch.empty(size, dtype=torch.uint8)
            if file.readinto(bytes_of(data)) != size:
                raise _Damage("the file became shorter while it was read")
    except _Damage as error:
        raise AdapterFormatError(f"{path} is truncated or damaged: {error}") from None
    except OSError as error:
        raise AdapterFormatError(f"cannot read {path}: {error.strerror}") from None
    return SafetensorsFile(data, places, header.get(_METADATA) or {})


def bytes_of(data: torch.Tensor) -> memoryview:
    """The memory of a uint8 tensor."""
    return memoryview(data.numpy())  # type: ignore[arg-type]


class _Damage(Exception):
    """What is wrong with a file."""


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes follow it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise _Damage("it is shorter than its header")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise _Damage("its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise _Damage("its header is no JSON object")
    metadata = header.get(_METADATA) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Damage("its metadata are not strings")
    try:
        # JSON can spell halves of characters, which no text can hold.
        "".join([*header, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError:
        raise _Damage("a name in its header is no text") from None
    return header, size - 8 - length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _places(path: Path, header: dict[str, Any], size: int) -> dict[str, Place]:
    """Where each tensor lies: they must fill `size` bytes without gaps or overlaps."""
    entries = ((name, entry) for name, entry in header.items() if name != _METADATA)
    found = [(name, _place(path, name, entry)) for name, entry in entries]
    found.sort(key=lambda pair: (pair[1].start, pair[1].end))
    end = 0
    for name, place in found:
        if place.start != end:
            raise _Damage(f"tensor {name} does not begin where the one before it ends")
        end = place.end
    if end != size:
        raise _Damage(f"its tensors take {end} bytes, but {size} follow the header")
    return dict(found)


def _place(path: Path, name: str, entry: Any) -> Place:
    try:
        code, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _Damage(f"the header's entry of tensor {name} is incomplete") from None
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise _Damage(f"the header's entry of tensor {name} has sizes that are no whole numbers")
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise UnsupportedAdapterError(
            f"{path}: tensor {name} is stored as {code}; save it as F32, F16 or BF16"
        )
    if end - start != math.prod(shape) * dtype.itemsize:
        raise _Damage(f"tensor {name} of shape {list(shape)} does not take {end - start} bytes")
    return Place(dtype, shape, start, end)
