"""The body of an upload: a multipart form with a few short fields and one file, in pieces.

The file goes to scratch as it comes; nothing of it is held in memory. What is accepted is a form
that has ended: a parser that was given half of one has no complaint.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gossamer.errors import JobError, cut
from gossamer.jobs.files.scratch import ScratchFile

# It repeats the bytes of strangers.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

MAX_FIELDS = 20
MAX_FIELD_BYTES = 1024
MAX_HEADER_BYTES = 4096
MAX_BOUNDARY = 70
"""What RFC 2046 allows."""

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


@dataclass(slots=True)
class Form:
    """A whole form."""

    fields: dict[str, str]
    filename: str
    """The file's name as the client wrote it."""
    file: ScratchFile


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: bytearray = field(default_factory=bytearray)
    text: bytearray = field(default_factory=bytearray)
    name: str = ""
    filename: str | None = None


class FormReceiver:
    """Takes in one form. Not for the event loop: it writes to the disk.

    All errors are `JobError`s of one sentence, or `StorageError`; `close` then leaves nothing.
    """

    def __init__(
        self, content_type: str, scratch: Path, *, file_field: str, max_bytes: int, limit_name: str
    ) -> None:
        """`file_field` names the part that is the file, of at most `max_bytes`; `limit_name` is
        said with that limit. Raises `JobError` for what is no form with a boundary."""
        self._scratch = scratch
        self._file_field = file_field
        self._max_bytes = max_bytes
        self._limit_name = limit_name
        self._fields: dict[str, str] = {}
        self._parts = 0
        self._part = _Part()
        self._file: ScratchFile | None = None
        self._filename = ""
        self._writing = False
        self._ended = False
        self._parser = MultipartParser(
            _boundary_in(content_type),
            self._callbacks(),
            max_header_size=MAX_HEADER_BYTES,
        )

    def write(self, data: bytes) -> None:
        """Take in the next piece of the body."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _malformed("the body is not a valid multipart form") from None

    def finish(self) -> Form:
        """Return the form; its file is the caller's now."""
        if not self._ended:
            raise _malformed("the multipart form is not complete: its last boundary is missing")
        if self._file is None:
            raise _malformed(f"the form has no file; send it as the part '{self._file_field}'")
        form = Form(self._fields, self._filename, self._file)
        self._file = None
        return form

    def close(self) -> None:
        """Remove what was received of a form that was not finished."""
        if self._file is not None:
            self._file.remove()

    def _callbacks(self) -> Any:
        ours: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._form_end,
        }
        return ours

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS + 1:
            raise _malformed(f"the form has more than {MAX_FIELDS} fields")
        self._part = _Part()
        self._writing = False

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.text += data[start:end]

    def _header_end(self) -> None:
        part = self._part
        part.headers[bytes(part.header).lower()] = bytes(part.text)
        part.header.clear()
        part.text.clear()

    def _headers_end(self) -> None:
        part = self._part
        disposition = part.headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise _malformed("a part of the form has no name")
        part.name = _text(options[b"name"], "the name of a part")
        if b"filename" in options:
            part.filename = _text(options[b"filename"], "the file's name")
        if part.name == self._file_field:
            self._begin_file(part)
        elif part.filename is not None:
            raise _malformed(
                f"the file is sent as '{cut(part.name)}'; send it as the part '{self._file_field}'"
            )
        elif part.name in self._fields:
            raise _malformed(f"the field '{cut(part.name)}' is sent twice")

    def _begin_file(self, part: _Part) -> None:
        if self._file is not None:
            raise _malformed(f"the form has several parts '{self._file_field}'; send one file")
        self._filename = part.filename or ""
        self._file = ScratchFile(self._scratch)
        self._writing = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._writing and self._file is not None:
            if self._file.num_bytes + end - start > self._max_bytes:
                raise too_large(self._max_bytes, self._limit_name)
            self._file.write(memoryview(data)[start:end])
            return
        self._part.text += data[start:end]
        if len(self._part.text) > MAX_FIELD_BYTES:
            raise _malformed(
                f"the field '{cut(self._part.name)}' is longer than {MAX_FIELD_BYTES} bytes"
            )

    def _end(self) -> None:
        part = self._part
        if not self._writing:
            self._fields[part.name] = _text(bytes(part.text), f"the field '{cut(part.name)}'")

    def _form_end(self) -> None:
        self._ended = True


def too_large(max_bytes: int, limit_name: str) -> JobError:
    """Build the error for a file beyond the limit."""
    return JobError(
        f"the file is larger than {max_bytes / 2**20:g} MiB ({limit_name})",
        code="file_too_large",
        param="file",
    )


def _boundary_in(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise _malformed(
            f"the body is sent as '{cut(content_type)}'; send the file as multipart/form-data"
        )
    boundary = options.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed(
            f"the header Content-Type has no usable boundary of 1 to {MAX_BOUNDARY} characters"
        )
    return boundary


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed(f"{what} is not UTF-8") from None


def _malformed(message: str) -> JobError:
    return JobError(message, code="invalid_form", param="file")
