"""The files of a simulation's clients: what is wrong with a row is told where the row is read."""

import pytest

from gossamer.federated.rows import SharedRows
from gossamer.training.data.check import check_row
from gossamer.training.data.rows import RowProblem
from gossamer.training.data.source import open_source


def test_half_a_character_is_written_and_judged_as_in_any_other_row(tmp_path):
    rows = [{"prompt": "who?", "completion": "\ud800"}, {"prompt": "wo?", "completion": "hü 😀"}]
    (path,) = SharedRows([rows], ["0"], []).write(tmp_path)
    found = [row.values for row in open_source(str(path)).rows]
    assert found == rows
    with pytest.raises(RowProblem, match="half of a surrogate pair"):
        check_row(found[0], "prompt-completion")
