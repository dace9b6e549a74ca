"""The header of a safetensors file: which tensors there are, and where each lies."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch

from gossamer.adapters.fields import short
from gossamer.adapters.reading.json_text import count_values, parse
from gossamer.adapters.reading.limits import MOST_PLACES, AdapterLimits

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

T = TypeVar("T")

_METADATA = "__metadata__"
_SHORT_HEADER = 256 << 10
MOST_HEADERS = 32
"""Kinds of files of which is remembered what their headers say."""
_MOST_CONCLUSIONS = 32
# A name, its object, three fields, two lists and their numbers; and what writers note.
_VALUES_OF_A_TENSOR = 16
_VALUES_BESIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a tensor behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int
    """In bytes."""

    @property
    def numel(self) -> int:
        """The number of the tensor's elements."""
        return (self.end - self.start) // self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Header:
    """The statements of a header.

    One object for files that say the same, so that what follows from it alone can be worked out
    once for all of them.
    """

    places: Mapping[str, Place]
    """By name, in the order of the data."""
    metadata: Mapping[str, str]
    dtype: torch.dtype | None
    """The number format of all tensors, if it is the same."""
    _conclusions: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def numel(self) -> int:
        """The number of elements of all tensors."""
        return sum(place.numel for place in self.places.values())

    def once(self, key: Hashable, conclude: Callable[[], T]) -> T:
        """Return what `conclude` returns, called once as long as the header is remembered.

        `key` names all that the answer depends on beside the header.
        """
        found: T | None = self._conclusions.get(key)
        if found is None:
            found = conclude()
            if len(self._conclusions) >= _MOST_CONCLUSIONS:
                self._conclusions.clear()
            self._conclusions[key] = found
        return found


class Damage(Exception):
    """A file is damaged; the message says how."""


class Excess(Exception):
    """A file has more of something than may be read; the message says of what."""


class UnknownFormat(Exception):
    """A tensor has a number format that is none of `DTYPES`; the message says which."""


def parse_header(content: bytes, size: int, limits: AdapterLimits) -> Header:
    """Parse and check a header that `size` bytes follow.

    Raises:
        Damage: it is malformed, or does not describe `size` bytes.
        Excess: it has more, or larger, tensors than `limits` allow.
        UnknownFormat: a number format other than those of `DTYPES`.
    """
    parse_one = _parse_again if len(content) <= _SHORT_HEADER else _parse
    return parse_one(
        content, size, limits.max_tensors, limits.max_name_chars, limits.max_dimensions
    )


def _parse(content: bytes, size: int, tensors: int, name_chars: int, dimensions: int) -> Header:
    if count_values(content) > _VALUES_OF_A_TENSOR * tensors + _VALUES_BESIDE:
        raise Excess(f"its header describes more than the {tensors} tensors of max_tensors")
    try:
        header = parse(content, _without_repeats)
    except ValueError as error:
        raise Damage(f"its header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise Damage("its header is no JSON object")
    metadata = header.pop(_METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damage("its metadata are not strings")
    if len(header) > tensors:
        raise Excess(f"it holds {len(header)} tensors, more than the {tensors} of max_tensors")
    _check_names(header, metadata, name_chars)
    places = _places(header, size, dimensions)
    dtypes = {place.dtype for place in places.values()}
    return Header(places, metadata, dtypes.pop() if len(dtypes) == 1 else None)


def _check_names(header: Mapping[str, Any], metadata: Mapping[str, str], most: int) -> None:
    try:
        # JSON can spell halves of characters, which no text can hold.
        "".join([*header, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError:
        raise Damage("a name in its header is no text") from None
    for name in header:
        if len(name) > most:
            raise Excess(
                f"a tensor's name has {len(name)} characters, more than the {most} of "
                "max_name_chars"
            )
        if not name.isprintable():
            raise Damage(f"a tensor's name has control characters: {short(name)}")


# Adapters of one base and method have the same header, up to its last byte.
_parse_again = lru_cache(maxsize=MOST_HEADERS)(_parse)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _places(header: dict[str, Any], size: int, dimensions: int) -> dict[str, Place]:
    """Where each tensor lies: they must fill `size` bytes without gaps or overlaps."""
    found = [(name, _place(name, entry, size, dimensions)) for name, entry in header.items()]
    found.sort(key=lambda pair: (pair[1].start, pair[1].end))
    end = 0
    for name, place in found:
        if place.start != end:
            raise Damage(f"tensor {name} does not begin where the one before it ends")
        end = place.end
    if end != size:
        raise Damage(f"its tensors take {end} bytes, but {size} follow the header")
    return dict(found)


def _place(name: str, entry: Any, size: int, dimensions: int) -> Place:
    try:
        code, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise Damage(f"the header's entry of tensor {name} is incomplete") from None
    # Before anything is computed with them: a product of many large numbers takes minutes.
    if len(shape) > dimensions:
        raise Excess(
            f"tensor {name} has {len(shape)} dimensions, more than the {dimensions} of "
            "max_dimensions"
        )
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise Damage(f"the header's entry of tensor {name} has sizes that are no whole numbers")
    if shape and max(shape) >= MOST_PLACES:
        raise Excess(f"tensor {name} has a dimension of {max(shape)}, which must be below 2^31")
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise UnknownFormat(f"tensor {name} is stored as {short(code)}")
    if end > size or end - start != math.prod(shape) * dtype.itemsize:
        raise Damage(f"tensor {name} of shape {list(shape)} does not take {end - start} bytes")
    return Place(dtype, shape, start, end)
