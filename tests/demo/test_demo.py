import json
import subprocess
import sys

import pytest

pytest.importorskip("chatterbot_corpus")

from demo.command import wait
from demo.corpus import write_rows
from demo.curves import draw_curves, losses_by_step
from demo.personas import JOB, PERSONAS
from demo.server import READY


@pytest.mark.parametrize("persona", [*PERSONAS, JOB], ids=lambda persona: persona.name)
def test_every_persona_has_distinct_rows_to_learn(persona, tmp_path):
    path = tmp_path / "data" / "rows.jsonl"
    count = write_rows(persona, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == count >= 10
    assert len({(row["prompt"], row["completion"]) for row in rows}) == count
    assert all(row["prompt"] and row["completion"] for row in rows)
    assert all(len(row["completion"]) <= persona.max_answer for row in rows)


def test_curves_skip_evaluations(tmp_path):
    lines = [{"step": 0, "eval_loss": 9.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert losses_by_step(tmp_path) == ([1, 2], [2.0, 1.0])
    picture = draw_curves({"one": tmp_path}, tmp_path / "curves.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ready_line_is_only_read_whole():
    line = "gossamer: ready at http://127.0.0.1:8001 with tiny and 4 adapters after 1.0 s"
    found = READY.search(line)
    assert found is not None
    assert found[1] == "http://127.0.0.1:8001"
    assert READY.search(line[: line.index(" with")]) is None


def test_memory_and_exit_code_of_a_child_are_measured():
    code = "import sys; block = bytearray(300 << 20); sys.exit(3)"
    exit_code, peak = wait(subprocess.Popen([sys.executable, "-c", code]))
    assert exit_code == 3
    assert peak > 300 << 20


def test_waiting_for_a_child_gives_up():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(TimeoutError):
        wait(process, timeout=0.2)
    process.kill()
    process.wait()
