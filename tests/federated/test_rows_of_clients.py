"""The rows of a simulation's clients: sifted before they are shared out, told by their place."""

import json
from itertools import chain

import pytest
from federated_runs import federate
from runs import write_rows

from gossamer.errors import DataError
from gossamer.federated.rows import SharedRows
from gossamer.training.data import DataReport
from gossamer.training.data.check import check_row
from gossamer.training.data.rows import RowProblem
from gossamer.training.data.source import open_source
from gossamer.training.outputs.run_record import read_config

pytestmark = pytest.mark.usefixtures("no_pictures")

SHORT = {"prompt": "a", "completion": "b", "kind": "short"}
LONG = {"prompt": "word " * 60, "completion": "c", "kind": "long"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(folder):
    """What the rows of all clients ask, by client."""
    return [
        [json.loads(line)["prompt"] for line in file.read_text().splitlines()]
        for file in sorted(folder.glob("client-*.jsonl"))
    ]


def test_half_a_character_is_written_and_judged_as_in_any_other_row(tmp_path):
    rows = [{"prompt": "who?", "completion": "\ud800"}, {"prompt": "wo?", "completion": "hü 😀"}]
    report = DataReport(source="rows", format="prompt-completion", rows_read=2, rows_used=2)
    (path,) = SharedRows([rows], ["0"], [], report).write(tmp_path)
    found = [row.values for row in open_source(str(path)).rows]
    assert found == rows
    with pytest.raises(RowProblem, match="half of a surrogate pair"):
        check_row(found[0], "prompt-completion")


def test_no_client_learns_what_held_out_rows_ask(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", count=24)
    held_out = write(tmp_path / "ev.jsonl", map(json.loads, rows.read_text().splitlines()[:8]))
    told = []
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=2, rounds=1, max_steps=1, tell=told.append,
        eval_data=str(held_out), leave_out=["held-out"],
    )  # fmt: skip
    of_clients = asked(run.output / "clients")
    assert [len(own) for own in of_clients] == [8, 8]
    assert not {f"What is {i} + 1?" for i in range(8)} & set(chain(*of_clients))
    assert "8 held-out left out: 1, 2, 3, 4, 5, 6, 7, 8" in told
    _, sections = read_config(run.output / "run.yaml")
    assert sections["recorded"]["left_out"] == {"held-out": "1-8"}


def test_a_row_that_repeats_is_left_out_whoever_would_have_it(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", count=16)
    rows.write_text(rows.read_text() * 2)
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=2, rounds=1, max_steps=1,
        leave_out=["duplicates"],
    )  # fmt: skip
    of_clients = asked(run.output / "clients")
    assert sorted(chain(*of_clients)) == sorted(f"What is {i} + 1?" for i in range(16))


def test_a_bad_row_is_told_by_the_line_of_the_users_file(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", count=20)
    rows.write_text(rows.read_text() + '{"prompt": "no completion"}\n')
    with pytest.raises(DataError, match=r"^\S+/rows\.jsonl, line 21: 'completion' is missing"):
        federate(tiny_model, rows, tmp_path / "run", clients=2, eval_data=None)
    assert not (tmp_path / "run").exists()
    run = federate(
        tiny_model, rows, tmp_path / "run", clients=2, rounds=1, max_steps=1, eval_data=None,
        skip_bad_rows=True,
    )  # fmt: skip
    assert list(map(len, asked(run.output / "clients"))) == [10, 10]


@pytest.mark.parametrize("first", [True, False])
def test_a_client_without_a_row_to_learn_is_named(first, tiny_model, tmp_path):
    # The rows of the first client are read at another place.
    long = {**LONG, "kind": "a-long" if first else "z-long"}
    rows = write(tmp_path / "rows.jsonl", [SHORT, long] * 8)
    name = long["kind"]
    with pytest.raises(DataError, match=rf"^client {name}: no row has a token .* raise max_length"):
        federate(
            tiny_model, rows, tmp_path / "run", split="column:kind", max_length=40, eval_data=None
        )
    assert not (tmp_path / "run").exists()


def test_held_out_rows_without_one_to_learn_are_named(tiny_model, tmp_path):
    rows = write(tmp_path / "rows.jsonl", [LONG] * 16)
    with pytest.raises(DataError, match=r"^the held-out rows: no row has a token"):
        federate(
            tiny_model, rows, tmp_path / "run", clients=1, max_length=40, eval_data=None,
            eval_split=4,
        )  # fmt: skip
