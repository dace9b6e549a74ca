"""Data sets of the Hugging Face hub, through the `datasets` library."""

from typing import Any

from gossamer.errors import DataError
from gossamer.training.data.rows import Row, Rows, Source


def open_hub(name: str, *, max_rows: int | None = None) -> Source:
    """The rows of `org/name`, `org/name:split` or `org/name:config:split`. Raises `DataError`."""
    path, *rest = name.split(":")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    dataset = _load(name, path, config, split)
    if max_rows is not None:
        dataset = dataset.select(range(min(max_rows, len(dataset))))
    return Source(name, "row", _rows(dataset))


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
