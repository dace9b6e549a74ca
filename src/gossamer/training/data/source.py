"""From what the user named to a stream of raw rows: a local file or a data set of the hub."""

import re
from difflib import get_close_matches
from pathlib import Path

from gossamer.errors import DataError, cut
from gossamer.training.data.files import READERS, open_file
from gossamer.training.data.hub import open_hub
from gossamer.training.data.rows import Source

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+){0,2}")


def open_source(name: str, *, max_rows: int | None = None) -> Source:
    """Open the rows that `name` stands for.

    An existing path is a file. Any other name of the shape `org/name[:config][:split]` is a data
    set of the hub, unless it ends like a data file or its first part is a folder here.
    Raises `DataError`.
    """
    path = find_file(name)
    return open_hub(name, max_rows=max_rows) if path is None else open_file(name, path)


def find_file(name: str) -> Path | None:
    """The existing file that `name` stands for; None: a data set of the hub. Raises `DataError`."""
    if not name.strip():
        raise DataError("the name of the data file is empty")
    path = Path(name).expanduser()
    if path.is_dir():
        raise DataError(_folder_message(name, path))
    if path.exists():
        return path
    if _is_hub_id(name, path):
        return None
    raise DataError(_missing_message(cut(name), path))


def _is_hub_id(name: str, path: Path) -> bool:
    return (
        _HUB_ID.fullmatch(name) is not None
        and path.suffix.lower() not in READERS
        and not path.parent.is_dir()
    )


def _folder_message(name: str, folder: Path) -> str:
    files = _data_files(folder)
    if not files:
        return f"'{name}' is a folder without data files; give one {accepted_endings()} file"
    return f"'{name}' is a folder; give one file of it: {', '.join(files[:5])}"


def _missing_message(name: str, path: Path) -> str:
    message = f"data file '{name}' does not exist"
    if not path.parent.is_dir():
        return f"{message}, nor does the folder '{path.parent}'"
    close = get_close_matches(path.name, _data_files(path.parent), n=3, cutoff=0.5)
    if close:
        names = " or ".join(f"'{path.parent / other}'" for other in close)
        return f"{message}; did you mean {names}?"
    return f"{message}; give a {accepted_endings()} file or a hub data set as org/name"


def _data_files(folder: Path) -> list[str]:
    try:
        return sorted(f.name for f in folder.iterdir() if f.suffix.lower() in READERS)
    except OSError:
        return []


def accepted_endings() -> str:
    """`.jsonl, .json, .csv or .parquet`."""
    *most, last = READERS
    return f"{', '.join(most)} or {last}"
