"""Readers of local files: JSON lines, JSON, CSV and Parquet, without the `datasets` library.

Text is UTF-8, with or without a byte order mark, with any line ends. What is wrong with one row
is a `BadRow`; what makes the whole file unreadable raises `DataError`.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gossamer.errors import DataError
from gossamer.training.data.rows import BadRow, Row, Rows, Source, describe

_BOM = b"\xef\xbb\xbf"
# The csv module's own limit of 128 KiB a field is too small for long documents.
_CSV_FIELD_LIMIT = 2**31 - 1


def open_file(name: str, path: Path) -> Source:
    """The rows of the existing file `path`, which the user called `name`. Raises `DataError`."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        ending = f"files ending in '{path.suffix}'" if path.suffix else "files without an ending"
        raise DataError(f"'{name}': cannot read {ending}; known: {', '.join(READERS)}")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"'{name}' is empty")
        return reader(name, path)
    except OSError as error:
        raise DataError(f"'{name}' cannot be read: {error.strerror or error}") from None


def _open_jsonl(name: str, path: Path) -> Source:
    return Source(name, "line", _lines(name, path))


def _lines(name: str, path: Path) -> Rows:
    # Bytes, so that only \n ends a line: a JSON string may hold other separators of Unicode.
    try:
        with path.open("rb") as file:
            yield from _json_lines(file)
    except OSError as error:
        raise DataError(f"'{name}' cannot be read: {error.strerror or error}") from None


def _json_lines(lines: Iterable[bytes]) -> Rows:
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield parse_line(number, line)


def parse_line(number: int, line: bytes) -> Row | BadRow:
    """Read the row of one line of JSON."""
    line = line.removeprefix(_BOM) if number == 1 else line
    try:
        return _as_row(number, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return BadRow(number, _not_utf8(error))
    except json.JSONDecodeError as error:
        return BadRow(number, f"invalid JSON at column {error.colno}: {error.msg}")
    except (RecursionError, ValueError) as error:
        return BadRow(number, f"invalid JSON: {_unparsable(error)}")


def _as_row(number: int, value: object) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(number, value)
    return BadRow(number, f"must be a JSON object, got {describe(value)}")


def _unparsable(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"not UTF-8: byte 0x{byte:02x} at byte {error.start + 1}; save the file as UTF-8"


def _read_text(name: str, path: Path) -> str:
    content = path.read_bytes().removeprefix(_BOM)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: {_not_utf8(error)}") from None


def _open_json(name: str, path: Path) -> Source:
    """Read an array of objects; objects one after the other, a line each, are taken too."""
    text = _read_text(name, path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip()[:1] == "{":
            lines = text.encode("utf-8").split(b"\n")
            return Source(name, "line", _json_lines(lines))
        place = f"{name}, line {error.lineno}, column {error.colno}"
        raise DataError(f"{place}: invalid JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"'{name}': invalid JSON: {_unparsable(error)}") from None
    rows = content if isinstance(content, list) else [content]
    return Source(name, "row", (_as_row(n, value) for n, value in enumerate(rows, start=1)))


def _open_csv(name: str, path: Path) -> Source:
    return Source(name, "row", _csv_rows(name, _read_text(name, path)))


def _csv_rows(name: str, text: str) -> Rows:
    records = _csv_records(name, text)
    header = [column.strip() for column in next(records, [])]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise DataError(f"'{name}': the columns must be separated by commas, got {header[0]!r}")
    for number, record in enumerate(records, start=1):
        if len(record) == len(header):
            yield Row(number, dict(zip(header, record, strict=True)))
        else:
            counts = f"has {len(record)} fields, but the header names {len(header)}"
            yield BadRow(number, f"{counts}; quote fields that hold commas")


def _csv_records(name: str, text: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    old_limit = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        # All at once: the limit holds for the whole process and must not stay raised.
        records = [record for record in reader if record]
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: invalid CSV: {error}") from None
    finally:
        csv.field_size_limit(old_limit)
    return iter(records)


def _open_parquet(name: str, path: Path) -> Source:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"'{name}' is no Parquet file or damaged: {_one_line(error)}") from None
    return Source(name, "row", _parquet_rows(name, file))


def _parquet_rows(name: str, file: Any) -> Rows:
    import pyarrow

    number = 0
    try:
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except (pyarrow.ArrowException, OSError) as error:
        place = f"{name}, after row {number}"
        raise DataError(f"{place}: the file is damaged: {_one_line(error)}") from None
    finally:
        file.close()


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


READERS: dict[str, Callable[[str, Path], Source]] = {
    ".jsonl": _open_jsonl,
    ".json": _open_json,
    ".csv": _open_csv,
    ".parquet": _open_parquet,
}
"""The function that opens a file, by the file's ending in lower case."""
