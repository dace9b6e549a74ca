"""`gossamer tune` as people type it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gossamer import methods
from gossamer.cli import tune as tune_command
from gossamer.cli.main import main
from gossamer.cli.parts import known_tasks


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What is {i}?", "completion": f"A number: {i}."} for i in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(*arguments):
    """The exit code of `gossamer tune ARGUMENTS`."""
    try:
        return main(["tune", *map(str, arguments)])
    except SystemExit as end:
        return end.code


def test_the_help_lists_all_methods_and_options(capsys):
    assert command("--help") == 0
    text = capsys.readouterr().out
    for name in methods.names():
        assert f"  {name}" in text
        assert methods.find(name).summary in text
    for option in ("--model", "--data", "--method", "--output", "--config", "--max-steps"):
        assert option in text
    for option in ("--seed", "--set", "--resume", "--dry-run", "--overwrite", "--dtype"):
        assert option in text


def test_the_help_of_a_method_lists_every_setting_with_its_sentence(capsys):
    assert command("--help-method", "lora") == 0
    text = capsys.readouterr().out
    assert "rank  (default 16)" in text
    assert "Width of the two thin matrices" in text
    assert "max_length  (default 1024)" in text
    assert "default learning rate 0.001 up to hidden size 576, 0.0002 from 4096 on" in text
    assert command("--help-method", "smt") == 0
    text = capsys.readouterr().out
    assert "criterion  (default abs_mean; one of abs_mean, mean_abs, L1, L2)" in text
    assert command("--help-method", "lorra") == 2
    assert "did you mean 'lora'" in capsys.readouterr().err


def test_a_run_shows_progress_and_a_table_and_can_be_repeated(tiny_model, rows, tmp_path, capsys):
    output = tmp_path / "run"
    arguments = ["--model", tiny_model, "--data", rows, "--output", output]
    more = ["--max-steps", "4", "--set", "rank=2", "--set", "learning_rate=1e-3"]
    assert command(*arguments, *more, "--set", "eval_split=2", "--seed", "3") == 0
    shown = capsys.readouterr()
    text = shown.out
    assert shown.err == ""
    assert "format prompt-completion" in text
    assert "step 4/4  loss " in text
    assert "tokens/s" in text
    for row in ("trainable parameters", "peak memory", "tokens per second", "evaluation loss"):
        assert row in text
    assert (output / "adapter_config.json").is_file()

    again = tmp_path / "again"
    assert command("--config", output / "run.yaml", "--output", again) == 0
    name = "adapter_model.safetensors"
    assert (again / name).read_bytes() == (output / name).read_bytes()


def test_a_dry_run_tells_and_writes_nothing(tiny_model, rows, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--model", tiny_model, "--data", rows, "--output", tmp_path / "run"]
    assert command(*arguments, "--dry-run", "--set", "rank=4", "--set", "eval_split=2") == 0
    text = capsys.readouterr().out
    assert "rows: 10 to train on, 2 held out" in text
    assert "steps: 4 of 8 rows" in text
    assert "trainable parameters: 9,936 of 93,552 (10.62%)" in text
    assert "memory, estimated: " in text
    assert ">>>A number:" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_known_tasks_are_judged_before_anything_is_trained(
    tiny_model, rows, tmp_path, capsys, monkeypatch
):
    arguments = ["--model", tiny_model, "--data", rows, "--output", tmp_path / "run"]
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: name != "lm_eval")
    assert command(*arguments, "--eval-tasks", "arc_easy") == 2
    told = capsys.readouterr().err
    assert "tune --eval-tasks needs lm_eval" in told
    assert "pip install -e '.[eval]'" in told
    assert command(*arguments, "--eval-limit", "3") == 2
    assert "--eval-limit is about --eval-tasks" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_result_is_scored_on_known_tasks_beside_its_base(
    tiny_model, rows, tmp_path, capsys, monkeypatch
):
    """What the harness finds is tested where it is installed (`make test-eval`)."""
    asked = []
    monkeypatch.setattr(known_tasks, "planned", lambda *given: asked.append(given) or "settings")
    monkeypatch.setattr(known_tasks, "score", lambda settings: asked.append(settings) or 1)
    output = tmp_path / "run"
    arguments = ["--model", tiny_model, "--data", rows, "--output", output, "--max-steps", "1"]
    assert command(*arguments, "--set", "rank=2", "--eval-tasks", "arc_easy") == 1
    assert asked[0][1:] == ("tune", str(tiny_model), [output], output)
    assert asked[0][0].eval_tasks == ["arc_easy"]
    assert asked[1] == "settings"


@pytest.mark.parametrize(
    ("method", "whole"),
    [
        ("full", True),
        ("loraprune", True),
        ("sparsegrad", True),
        ("sparsegrad --set export=low-rank", False),
        ("smt --set selection=train", True),
        ("smt", False),
    ],
)
def test_a_result_that_is_a_whole_model_is_scored_as_one(
    method, whole, tiny_model, rows, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(known_tasks, "planned", lambda *given: asked.append(given[2:4]))
    monkeypatch.setattr(tune_command, "_tune", lambda *given, **more: 0)
    output = tmp_path / "run"
    arguments = ["--model", tiny_model, "--data", rows, "--output", output]
    arguments += ["--method", *method.split(), "--eval-tasks", "arc_easy"]
    assert command(*arguments) == 0
    assert asked == [(str(output), []) if whole else (str(tiny_model), [output])]


BAD = {
    "no model": (["--data", "ROWS"], 2, "--model is required"),
    "no data": (["--model", "MODEL"], 2, "--data is required"),
    "missing file": (["--data", "TMP/none.jsonl"], 1, "none.jsonl' does not exist"),
    "empty file": (["--data", "TMP/empty.jsonl"], 1, "empty.jsonl' is empty"),
    "wrong column": (["--data", "TMP/column.jsonl"], 1, "rename 'completoin' to 'completion'"),
    "row of wrong type": (["--data", "TMP/type.jsonl"], 1, "type.jsonl, line 2"),
    "unknown model": (["--model", "smollm2-135"], 1, "did you mean 'smollm2-135m'"),
    "unknown method": (["--method", "lorra"], 2, "unknown method 'lorra'; did you mean 'lora'"),
    "unknown setting": (["--set", "rnk=4"], 2, "unknown setting 'rnk'; did you mean 'rank'"),
    "no assignment": (["--set", "rank"], 2, "'rank' is not of the form key=value"),
    "rank 0": (["--set", "rank=0"], 2, "'rank' = 0"),
    "dropout": (["--set", "dropout=1.5"], 2, "'dropout' = 1.5"),
    "target": (["--set", "target_modules=[nope]"], 2, "'nope' matches no layer; available: "),
    "head": (["--set", "target_modules=[lm_head]"], 2, "is the output head"),
    "dtype": (["--dtype", "int4"], 2, "--dtype = 'int4'"),
    "max length": (["--set", "max_length=2"], 1, "no row has a token to learn"),
    "split": (["--set", "eval_split=12"], 1, "would leave none to train on"),
    "config": (["--config", "TMP/none.yaml"], 2, "none.yaml' does not exist"),
    "resume": (["--resume"], 1, "nothing to resume"),
    "gpu": (["--set", "device=cuda"], 2, "no GPU is visible"),
}


def test_bad_rows_are_skipped_and_counted_where_asked(tiny_model, rows, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(rows.read_text() + '{"prompt": "no completion"}\n')
    options = ("--model", tiny_model, "--data", bad, "--output", tmp_path / "out", "--dry-run")
    assert command(*options) != 0
    assert "bad.jsonl" in capsys.readouterr().err
    assert command(*options, "--skip-bad-rows") == 0
    assert "1 bad" in capsys.readouterr().out


# All but --resume, which excludes --dry-run, in a dry run too.
MISTAKES = [(case, False) for case in BAD] + [(case, True) for case in BAD if case != "resume"]


@pytest.mark.parametrize(("case", "dry"), MISTAKES)
def test_mistakes_give_one_clear_line(case, dry, tiny_model, rows, tmp_path, capsys, monkeypatch):
    arguments, code, message = BAD[case]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    row = '{"prompt": "a", "completion": "b"}\n'
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "column.jsonl").write_text('{"prompt": "a", "completoin": "b"}\n')
    (tmp_path / "type.jsonl").write_text(row + '{"prompt": "a", "completion": 3}\n')
    places = {"ROWS": str(rows), "MODEL": str(tiny_model)}
    given = [places.get(a, a.replace("TMP", str(tmp_path))) for a in arguments]
    if case not in ("no model", "no data"):
        for option, value in (("--model", tiny_model), ("--data", rows)):
            given += [] if option in given else [option, value]
    output = tmp_path / "run"
    given += ["--output", output, *(["--dry-run"] if dry else [])]
    assert command(*given) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.err.startswith("gossamer: error: ")
    assert not output.exists(), "a run that cannot start leaves nothing in the way of the next"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_tells_how_to_go_on(number, tiny_model, rows, tmp_path):
    output = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gossamer.cli.main", "tune"),
            *("--model", tiny_model, "--data", rows, "--output", output),
            *("--max-steps", "100000", "--set", "rank=2", "--set", "save_every=100000"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = output / "metrics.jsonl"
    try:
        # No deadline: on a busy machine the process may load for minutes, and it ends if it fails.
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate()
    finally:
        # What a failed test leaves open or running fails another test, whichever comes next.
        process.kill()
        process.communicate()
    assert process.returncode == 130, err
    assert err.strip() == "stopping after this step; once more stops at once"
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert [p.name for p in (output / "checkpoints").iterdir()] == [f"step-{last}"]
    assert f"gossamer tune --output {output} --resume" in out


def test_mistakes_with_names_are_told_before_anything_is_trained(rows, tmp_path, capsys):
    assert command() == 2
    assert "--data, --model and --output are required" in capsys.readouterr().err
    both = ("smollm2-135m", "--model", "other", "--data", rows, "--output", tmp_path / "out")
    assert command(*both) == 2
    assert "'smollm2-135m' and --model other: which of the two?" in capsys.readouterr().err


def test_the_model_may_be_a_plain_word(tiny_model, rows, tmp_path, capsys):
    arguments = [tiny_model, "--data", rows, "--output", tmp_path / "run", "--dry-run"]
    assert command(*arguments) == 0
    assert "nothing was written" in capsys.readouterr().out
