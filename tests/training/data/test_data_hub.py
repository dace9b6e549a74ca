"""Data sets of the hub; the hub itself is never reached for."""

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from gossamer.errors import DataError

ROWS = [{"prompt": f"{i}?", "completion": f"{i}!"} for i in range(6)]


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub: holds what was asked for, answers with `ROWS` or an error."""
    asked = []

    def load_dataset(path, name=None, *, split):
        asked.append((path, name, split))
        if isinstance(hub_answer["error"], Exception):
            raise hub_answer["error"]
        return datasets.Dataset.from_list(ROWS)

    hub_answer = {"error": None, "asked": asked}
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return hub_answer


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("org/some-set", ("org/some-set", None, "train")),
        ("org/some.set:test", ("org/some.set", None, "test")),
        ("org/set:main:train", ("org/set", "main", "train")),
    ],
)
def test_name_with_configuration_and_split(name, asked, hub, write, load):
    data = load(name)
    assert hub["asked"] == [asked]
    assert data.train == load(write(ROWS)).train
    assert data.report.source == name
    assert len(load(name, max_rows=2).train) == 2


def test_bad_row_of_a_hub_set(hub, monkeypatch, load):
    rows = [*ROWS, {"prompt": "x", "completion": None}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.Dataset.from_list(rows))
    with pytest.raises(DataError, match=r"^org/set, row 7: 'completion' is null"):
        load("org/set")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetNotFoundError("Dataset 'org/set' doesn't exist"), "no data set 'org/set' on the h"),
        (ConnectionError("Couldn't reach"), r"cannot reach the hub .* or give a local \.jsonl"),
        (ValueError('Unknown split "x".\n\nShould be'), 'cannot load .* Unknown split "x"'),
    ],
)
def test_errors_of_the_hub(error, message, hub, load):
    hub["error"] = error
    with pytest.raises(DataError, match=message) as caught:
        load("org/set:x")
    assert "\n" not in str(caught.value)


def test_offline(load):
    with pytest.raises(DataError, match=r"cannot reach the hub for the data set 'no-org/no-set'"):
        load("no-org/no-set")
