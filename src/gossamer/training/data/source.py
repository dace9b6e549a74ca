"""Opens the raw rows that the user named: a local file or a data set of the hub."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gossamer.errors import DataError, cut
from gossamer.training.data.files import READERS, open_file
from gossamer.training.data.rows import Row, Rows, Source


def open_hub(name: str, *, max_rows: int | None = None) -> Source:
    """The rows of `org/name`, `org/name:split` or `org/name:config:split`. Raises `DataError`."""
    dataset = load_hub(name)
    if max_rows is not None:
        dataset = dataset.select(range(min(max_rows, len(dataset))))
    return Source(name, "row", _rows(dataset))


def load_hub(name: str) -> Any:
    """The `datasets.Dataset` of `org/name`, `org/name:split` or `org/name:config:split`.

    Raises `DataError`.
    """
    path, *rest = name.split(":")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    return _load(name, path, config, split)


def _rows(dataset: Any) -> Rows:
    for number, values in enumerate(dataset, start=1):
        yield Row(number, dict(values))


def _load(name: str, path: str, config: str | None, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    try:
        return datasets.load_dataset(path, config, split=split)
    except DatasetNotFoundError as error:
        raise DataError(
            f"no data set '{path}' on the hub that you may read ({_first_line(error)}); "
            "check the name, log in with `hf auth login` if it is private, or give a local file"
        ) from None
    except ConnectionError as error:
        raise DataError(
            f"cannot reach the hub for the data set '{path}' ({_first_line(error)}); "
            "check the network, or give a local .jsonl, .json, .csv or .parquet file"
        ) from None
    except Exception as error:
        # The library raises whatever its readers raise: unknown splits and configurations,
        # files it cannot parse, scripts it no longer runs.
        raise DataError(f"cannot load the data set '{name}': {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


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
    """List the accepted endings: `.jsonl, .json, .csv or .parquet`."""
    *most, last = READERS
    return f"{', '.join(most)} or {last}"
