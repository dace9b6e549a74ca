"""A safetensors file: judged by its header, then read into one piece of memory that all of its
tensors are views of.

The library's reader copies each tensor once more, which for an adapter of hundreds of small ones
costs as much as reading them. What it checks is checked here too.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Protocol

import torch

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.regular_file import open_regular, unreadable
from gossamer.adapters.reading.safetensors_header import (
    Damage,
    Excess,
    Header,
    Place,
    UnknownFormat,
    parse_header,
)
from gossamer.errors import AdapterFormatError, AdapterReadError, UnsupportedAdapterError

Stamp = tuple[int, ...]
"""Changes with the content of a file."""

_SETTLED_NS = 2_000_000_000
_MOST_FILES = 1 << 16
_MOST_DIGESTS = 8


@dataclass
class Findings:
    """What is known about the content of one file."""

    is_finite: bool = False
    """Whether it was seen to hold neither NaN nor infinity."""
    _digests: dict[bytes, str] = field(default_factory=dict)

    def digest(self, config: bytes) -> str | None:
        """Return the adapter's digest, if it is known beside a config whose hash is `config`."""
        return self._digests.get(config)

    def note_digest(self, config: bytes, digest: str) -> None:
        """Note the digest beside a config; of many configs only the last ones are kept."""
        if len(self._digests) >= _MOST_DIGESTS:
            self._digests.clear()
        self._digests[config] = digest


def stamp_of(status: os.stat_result) -> Stamp | None:
    """Make a stamp of the content; None if the file was written to very recently.

    A clock need not tell the next change then.
    """
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    if time.time_ns() - changed < _SETTLED_NS:
        return None
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


def findings_about(stamp: Stamp | None) -> Findings:
    """Return the findings about a content, kept for its next reader if it can be recognised."""
    return Findings() if stamp is None else _kept(stamp)


@lru_cache(maxsize=_MOST_FILES)
def _kept(stamp: Stamp) -> Findings:
    return Findings()


_PART_BYTES = 16 << 20
"""Read at a time: between two parts the clock is looked at."""
_GIB = 1 << 30


class Slowness(Exception):
    """Reading takes too long."""


class Content(Protocol):
    """A file's tensors, in memory or not."""

    @property
    def header(self) -> Header:
        """The header, which says which tensors there are."""

    @property
    def findings(self) -> Findings:
        """What is known of the content."""

    def parts(self, bounds: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """Give the bytes between some bounds, counted from the header's end."""


@dataclass(frozen=True)
class SafetensorsFile:
    """The whole content of a file, in memory."""

    data: torch.Tensor
    """[bytes] all elements, one tensor behind the other."""
    header: Header
    findings: Findings

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by name, as views of `data`."""
        return {name: self.tensor(place) for name, place in self.header.places.items()}

    def tensor(self, place: Place) -> torch.Tensor:
        """Return the tensor at one of the header's places, as a view of `data`."""
        piece = self.data[place.start : place.end]
        if place.start % place.dtype.itemsize:  # allowed, if rare: behind one of smaller elements
            piece = piece.clone()
        return piece.view(place.dtype).view(place.shape)

    def elements(self) -> torch.Tensor | None:
        """All tensors' elements in one, if all have the same number format."""
        return self.data.view(self.header.dtype) if self.header.dtype is not None else None

    def parts(self, bounds: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """Give the bytes between some bounds; see `Content`."""
        data = bytes_of(self.data)
        return (data[start:end] for start, end in bounds)


class OpenSafetensors:
    """A file of which only the header has been read."""

    def __init__(self, file: FileIO, limits: AdapterLimits) -> None:
        self._file = file
        self._limits = limits
        self._ends = time.monotonic() + limits.max_read_seconds
        self._status = os.fstat(file.fileno())
        self._stamp = stamp_of(self._status)
        content = _read_header(file, self._status.st_size, limits)
        self._start = 8 + len(content)
        self._size = self._status.st_size - self._start
        self.header = parse_header(content, self._size, limits)

    @property
    def findings(self) -> Findings:
        """What is known of the content."""
        return findings_about(self._stamp)

    def read(self) -> SafetensorsFile:
        """Read all tensors; the memory is ours, so that later changes of the file do no harm.

        Raises `Damage`, `OSError`.
        """
        data = torch.empty(self._size, dtype=torch.uint8)
        memory = bytes_of(data)
        self._file.seek(self._start)
        for low in range(0, self._size, _PART_BYTES):
            self._fill(memory[low : low + _PART_BYTES])
        findings = self.findings if self._is_unchanged() else Findings()
        return SafetensorsFile(data, self.header, findings)

    def parts(self, bounds: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """Give the bytes between some bounds; raises `Damage` if the file has changed."""
        memory = memoryview(bytearray(min(_PART_BYTES, self._size)))
        for start, end in bounds:
            self._file.seek(self._start + start)
            for low in range(start, end, _PART_BYTES):
                part = memory[: min(_PART_BYTES, end - low)]
                self._fill(part)
                yield part
        if not self._is_unchanged():
            raise Damage("it was written to while it was read")

    def _is_unchanged(self) -> bool:
        return _identity(os.fstat(self._file.fileno())) == _identity(self._status)

    def _fill(self, part: memoryview) -> None:
        done = 0
        while done < len(part):
            if time.monotonic() > self._ends:
                seconds = self._limits.max_read_seconds
                raise Slowness(f"takes longer than the {seconds:g} s of max_read_seconds")
            count = self._file.readinto(part[done:])
            if not count:
                raise Damage("the file became shorter while it was read")
            done += count


@contextmanager
def open_safetensors(path: Path, limits: AdapterLimits) -> Iterator[OpenSafetensors]:
    """Open and judge `path`; what goes wrong with it inside the context is told as here.

    Raises:
        AdapterFormatError: no safetensors file, truncated or damaged, larger than `limits` allow;
            or no file.
        AdapterReadError: it cannot be read now, or not in the time that `limits` give it.
        UnsupportedAdapterError: a number format other than those of `DTYPES`.
    """
    try:
        with open_regular(path) as file:
            yield OpenSafetensors(file, limits)
    except Damage as error:
        raise AdapterFormatError(f"{path} is truncated or damaged: {error}") from None
    except Excess as error:
        raise AdapterFormatError(f"{path} is too large: {error}") from None
    except Slowness as error:
        raise AdapterReadError(f"reading {path} {error}; try again later") from None
    except UnknownFormat as error:
        raise UnsupportedAdapterError(f"{path}: {error}; save it as F32, F16 or BF16") from None
    except OSError as error:
        raise unreadable(path, error) from None


def read_safetensors(path: Path, limits: AdapterLimits | None = None) -> SafetensorsFile:
    """Judge and read `path`. Raises as `open_safetensors`."""
    with open_safetensors(path, limits or AdapterLimits()) as file:
        return file.read()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def bytes_of(data: torch.Tensor) -> memoryview:
    """View the memory of a uint8 tensor."""
    return memoryview(data.numpy())  # type: ignore[arg-type]


def _read_header(file: FileIO, size: int, limits: AdapterLimits) -> bytes:
    """The header of a file of `size` bytes."""
    length = int.from_bytes(file.read(8) or b"", "little")
    if size < 8 or length > size - 8:
        raise Damage("it is shorter than its header")
    most = int(limits.max_header_mib * (1 << 20))
    if length > most:
        raise Excess(f"its header has {length:,} bytes, more than the {most:,} of max_header_mib")
    if size > limits.max_weights_gib * _GIB:
        raise Excess(
            f"it has {size:,} bytes, more than the {limits.max_weights_gib:g} GiB of "
            "max_weights_gib"
        )
    header = file.read(length) or b""
    if len(header) < length:
        raise Damage("the file became shorter while it was read")
    return header
