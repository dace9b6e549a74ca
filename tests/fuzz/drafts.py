"""An adapter as a draft that can be changed piece by piece and laid out into files again."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutate_json import Pairs, thaw, to_text

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1,
}  # fmt: skip


MOST_BYTES = 1 << 24


@dataclass
class Piece:
    """One tensor: what the header says of it, and its bytes."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes

    @property
    def count(self) -> int:
        """Elements that its bytes hold."""
        return len(self.data) // ITEM_BYTES[self.dtype]

    def resized(self, shape: list[int]) -> "Piece":
        """The same of another shape; the bytes are repeated or cut to fill it.

        Itself, if that would take more than `MOST_BYTES`: changes upon changes grow without end.
        """
        size = ITEM_BYTES[self.dtype]
        for extent in shape:
            size *= extent
        if size > MOST_BYTES:
            return self
        data = (self.data or b"\0" * 8) * (size // max(1, len(self.data)) + 1)
        return Piece(self.name, self.dtype, shape, data[:size])


@dataclass
class Draft:
    """A whole adapter."""

    name: str
    config: Pairs
    pieces: list[Piece]
    metadata: dict[str, str] = field(default_factory=dict)

    def field(self, name: str) -> Any:
        """The value of a field of the config, if it is there."""
        return next((value for key, value in self.config if key == name), None)

    def set_field(self, name: str, value: Any) -> None:
        """Give a field of the config another value."""
        for pair in self.config:
            if pair[0] == name:
                pair[1] = thaw(value)
                return
        self.config.append([name, thaw(value)])

    def header(self) -> Pairs:
        """The header that describes the pieces."""
        start, entries = 0, Pairs()
        if self.metadata:
            entries.append(["__metadata__", thaw(self.metadata)])
        for piece in self.pieces:
            end = start + len(piece.data)
            entry = {"dtype": piece.dtype, "shape": piece.shape, "data_offsets": [start, end]}
            entries.append([piece.name, thaw(entry)])
            start = end
        return entries

    def data(self) -> bytes:
        """What follows the header."""
        return b"".join(piece.data for piece in self.pieces)


def lay_out(header: Any, data: bytes) -> bytes:
    """A safetensors file."""
    text = header if isinstance(header, bytes) else to_text(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_draft(folder: Path) -> Draft:
    """The good adapter in `folder`."""
    content = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.pop("__metadata__", {})
    pieces = [
        Piece(name, each["dtype"], each["shape"], data[slice(*each["data_offsets"])])
        for name, each in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    ]
    config = thaw(json.loads((folder / CONFIG).read_text()))
    return Draft(folder.name, config, pieces, metadata)
