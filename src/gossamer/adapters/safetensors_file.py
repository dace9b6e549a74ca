"""A safetensors file read whole, into one piece of memory that all of its tensors are views of.

The library's reader copies each tensor once more, which for an adapter of hundreds of small ones
costs as much as reading them. What it checks is checked here too.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gossamer.adapters.findings import Findings, Stamp, findings_about, stamp_of
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
_SHORT_HEADER = 256 << 10


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
    places: Mapping[str, Place]
    """By name, in the order of `data`."""
    metadata: Mapping[str, str]
    findings: Findings

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, as views of `data`."""
        return {
            name: piece.view(place.shape)
            for (name, place), piece in zip(self.places.items(), self._pieces(), strict=True)
        }

    def elements(self) -> torch.Tensor | None:
        """Those of all tensors in one, if all have the same number format."""
        dtypes = {place.dtype for place in self.places.values()}
        return self.data.view(dtypes.pop()) if len(dtypes) == 1 else None

    def _pieces(self) -> Sequence[torch.Tensor]:
        """The elements of each tensor."""
        places = self.places.values()
        elements = self.elements()
        if elements is None:
            return [self._piece(place) for place in places]
        size = elements.element_size()
        return elements.split_with_sizes([(place.end - place.start) // size for place in places])

    def _piece(self, place: Place) -> torch.Tensor:
        piece = self.data[place.start : place.end]
        if place.start % place.dtype.itemsize:  # allowed, if rare: behind one of smaller elements
            piece = piece.clone()
        return piece.view(place.dtype)


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read and check `path`; the memory is ours, so that later changes of the file do no harm.

    Raises:
        AdapterFormatError: no safetensors file, truncated or damaged; or it cannot be read.
        UnsupportedAdapterError: a number format other than those of `DTYPES`.
    """
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            header = _read_header(file, before.st_size)
            size = before.st_size - 8 - len(header)
            parse = _parse_again if len(header) <= _SHORT_HEADER else _parse
            places, metadata = parse(header, size)
            data = torch.empty(size, dtype=torch.uint8)
            if file.readinto(bytes_of(data)) != size:
                raise _Damage("the file became shorter while it was read")
            stamp = _stamp(before, os.fstat(file.fileno()))
    except _Damage as error:
        raise AdapterFormatError(f"{path} is truncated or damaged: {error}") from None
    except _UnknownFormat as error:
        raise UnsupportedAdapterError(f"{path}: {error}; save it as F32, F16 or BF16") from None
    except OSError as error:
        raise AdapterFormatError(f"cannot read {path}: {error.strerror}") from None
    return SafetensorsFile(data, places, metadata, findings_about(stamp))


def _stamp(before: os.stat_result, after: os.stat_result) -> Stamp | None:
    stamp = stamp_of(before)
    return stamp if stamp == stamp_of(after) else None


def bytes_of(data: torch.Tensor) -> memoryview:
    """The memory of a uint8 tensor."""
    return memoryview(data.numpy())  # type: ignore[arg-type]


class _Damage(Exception):
    """What is wrong with a file."""


class _UnknownFormat(Exception):
    """Which tensor has a number format that is none of `DTYPES`."""


def _read_header(file: BinaryIO, size: int) -> bytes:
    """The header of a file of `size` bytes."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise _Damage("it is shorter than its header")
    header = file.read(length)
    if len(header) < length:
        raise _Damage("the file became shorter while it was read")
    return header


def _parse(content: bytes, size: int) -> tuple[Mapping[str, Place], Mapping[str, str]]:
    """Places and metadata of a header that `size` bytes follow."""
    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise _Damage("its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise _Damage("its header is no JSON object")
    metadata = header.pop(_METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Damage("its metadata are not strings")
    try:
        # JSON can spell halves of characters, which no text can hold.
        "".join([*header, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError:
        raise _Damage("a name in its header is no text") from None
    return _places(header, size), metadata


# Adapters of one base and method have the same header.
_parse_again = lru_cache(maxsize=16)(_parse)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _places(header: dict[str, Any], size: int) -> dict[str, Place]:
    """Where each tensor lies: they must fill `size` bytes without gaps or overlaps."""
    found = [(name, _place(name, entry)) for name, entry in header.items()]
    found.sort(key=lambda pair: (pair[1].start, pair[1].end))
    end = 0
    for name, place in found:
        if place.start != end:
            raise _Damage(f"tensor {name} does not begin where the one before it ends")
        end = place.end
    if end != size:
        raise _Damage(f"its tensors take {end} bytes, but {size} follow the header")
    return dict(found)


def _place(name: str, entry: Any) -> Place:
    try:
        code, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _Damage(f"the header's entry of tensor {name} is incomplete") from None
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise _Damage(f"the header's entry of tensor {name} has sizes that are no whole numbers")
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise _UnknownFormat(f"tensor {name} is stored as {code}")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise _Damage(f"tensor {name} of shape {list(shape)} does not take {end - start} bytes")
    return Place(dtype, shape, start, end)
