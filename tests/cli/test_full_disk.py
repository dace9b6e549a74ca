"""A disk that takes no more: one line with the remedy, and what was there before stays whole."""

import json
import os
import resource
from contextlib import contextmanager

import pytest

from gossamer.basemodel import pull
from gossamer.cli.main import main
from gossamer.errors import DownloadError
from gossamer.training.outputs.checkpoint import latest_checkpoint, step_of

from tiny import make_lora


@contextmanager
def largest_file(size):
    """Inside, no file can grow beyond `size` bytes: the way to a full disk that needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def only_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("gossamer: error: ")
    return lines[0]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What is {i}?", "completion": f"A number: {i}."} for i in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# The adapter itself, written by safetensors, and the optimizer's state, written by torch.
@pytest.mark.parametrize("size", [20_000, 100_000])
def test_tune_stops_with_one_line_and_goes_on_later(size, tiny_model, rows, tmp_path, capsys):
    output = tmp_path / "run"
    settings = ["batch_size=4", "save_every=2", "rank=8", "scheduler=constant", "warmup=0"]
    options = [word for setting in settings for word in ("--set", setting)]
    arguments = ["tune", tiny_model, "--data", rows, "--output", output, *options]
    assert main([str(a) for a in [*arguments, "--max-steps", "2"]]) == 0
    before = contents(output / "checkpoints")
    weights = (output / "adapter_model.safetensors").read_bytes()
    capsys.readouterr()

    further = ["tune", "--output", str(output), "--resume", "--max-steps", "4"]
    with largest_file(size):
        assert main(further) == 1
    line = only_line(capsys)
    assert line.startswith(f"gossamer: error: cannot go on with the run in {output}: ")
    assert "free space" in line or "limit on file sizes" in line
    assert line.endswith(f"go on with: gossamer tune --output {output} --resume")
    assert contents(output / "checkpoints") == before
    assert (output / "adapter_model.safetensors").read_bytes() == weights
    assert step_of(latest_checkpoint(output)) == 2

    assert main(further) == 0
    assert step_of(latest_checkpoint(output)) == 4


def test_a_comparison_stops_rather_than_failing_method_after_method(
    tiny_model, rows, tmp_path, capsys, monkeypatch
):
    from gossamer.errors import StorageError

    asked = []

    def full(job, folder, hear):
        asked.append((job.kind, job.label))
        if job.kind == "train":
            raise StorageError("cannot go on with the run in x: no space left on device; free some")
        job.write(folder)
        if job.kind == "base":
            return {"evaluation": {"seconds": 1.0, "loss": 1.0, "right": None}}
        facts = {"train_rows": 8, "eval_rows": 8, "score": "loss", "base_fingerprint": "x"}
        facts |= {"data_sha256": {}, "steps": 1}
        entry = {"method_settings": {}}
        return {"facts": facts, "entries": {"lora": entry, "dora": entry}}

    monkeypatch.setattr("gossamer.training.comparison.compare.run_job", full)
    files = ["--data", str(rows), "--eval", str(rows), "--output", str(tmp_path / "out")]
    command = ["compare", "--model", str(tiny_model), "--methods", "lora", "dora", *files]
    assert main(command) == 1
    assert "no space left on device" in only_line(capsys)
    assert asked == [("plan", ""), ("base", ""), ("train", "lora")]


def test_a_comparison_that_cannot_write_its_own_files(tiny_model, rows, tmp_path, capsys):
    files = ["--data", str(rows), "--eval", str(rows), "--output", str(tmp_path / "out")]
    with largest_file(10):
        command = ["compare", "--model", str(tiny_model), "--methods", "lora", *files]
        assert main(command) == 1
    line = only_line(capsys)
    assert "cannot go on with the comparison in" in line
    assert "limit on file sizes" in line
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name != ".lock"] == []


def test_merge_writes_all_or_nothing(tiny_model, tmp_path, capsys):
    adapter = make_lora(tmp_path / "adapter", tiny_model, rank=4)
    command = ["adapters", "merge", str(adapter), "--model", str(tiny_model)]
    with largest_file(50_000):
        assert main([*command, "--output", str(tmp_path / "merged")]) == 1
    line = only_line(capsys)
    assert f"cannot write --output {tmp_path / 'merged'}: " in line
    assert "limit on file sizes" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_keys_stay_as_they_were(tmp_path, capsys):
    path = tmp_path / "keys.yaml"
    assert main(["keys", "add", "alice", "--file", str(path)]) == 0
    before = path.read_bytes()
    with largest_file(len(before)):
        assert main(["keys", "add", "bob", "--file", str(path)]) == 1
    line = only_line(capsys)
    assert f"the key file {path} cannot be written: " in line
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} <= {"keys.yaml", "keys.yaml.lock"}


def test_pull_leaves_nothing_that_counts_as_a_model(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path))

    def full(model, scratch):
        (scratch / "finished").mkdir()
        raise SafetensorError("Error while serializing: I/O error (os error 28)")

    monkeypatch.setattr(pull, "_build", full)
    with pytest.raises(DownloadError, match=r"no space left on device; free space there; or set"):
        pull.pull("smollm2-135m")
    left = [path.name for path in tmp_path.rglob("*") if not path.name.endswith(".lock")]
    assert left in ([], ["models"])


def test_a_folder_of_someone_else(tiny_model, rows, tmp_path, capsys, monkeypatch):
    real = os.mkdir

    def refuse(path, *rest, **more):
        if str(path).endswith("run"):
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *rest, **more)

    monkeypatch.setattr(os, "mkdir", refuse)
    output = tmp_path / "run"
    assert main(["tune", str(tiny_model), "--data", str(rows), "--output", str(output)]) == 1
    line = only_line(capsys)
    assert f"cannot write to --output {output}: permission denied" in line
    assert "choose a folder that you may write to" in line
