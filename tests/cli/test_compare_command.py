"""`gossamer compare` as people type it."""

import json

import pytest

from gossamer.cli.main import main


@pytest.fixture
def command(tiny_model, tmp_path, monkeypatch):
    """`command(more...)`: its exit code, all jobs in this process."""
    from gossamer.training.comparison.jobs import carry_out

    def run_here(job, folder, hear):
        if folder.outcome() is None:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.finish(carry_out(job, folder, hear))
        return folder.outcome()

    monkeypatch.setattr("gossamer.training.comparison.compare.run_job", run_here)
    rows = tmp_path / "rows.jsonl"
    made = [{"prompt": f"{i}?", "completion": f"It is {i}.", "answer": str(i)} for i in range(6)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))

    def call(*more):
        paths = ["--model", tiny_model, "--data", rows, "--eval", rows, "--output", tmp_path / "o"]
        small = ["--max-new-tokens", "4", "--set", "batch_size=2"]
        try:
            return main(["compare", *map(str, paths), *small, *more])
        except SystemExit as end:
            return end.code

    return call


def test_a_table_is_printed_and_the_exit_code_tells_of_failures(command, tmp_path, capsys):
    arguments = ["--methods", "lora:rank=2,alpha=4", "--budget", "steps=2"]
    assert command(*arguments) == 0
    shown = capsys.readouterr().out
    assert "[1/1] lora:rank=2,alpha=4: " in shown
    assert "| base model |" in shown
    assert "| `lora:rank=2,alpha=4` |" in shown
    assert str(tmp_path / "o") in shown
    assert command(*arguments, "--seeds", "1", "2") == 2
    assert "seeds=[0], not [1, 2]" in capsys.readouterr().err


def test_a_failed_method_makes_the_exit_code_one(command, capsys):
    assert command("--methods", "lora:target_modules=[nowhere]", "--budget", "steps=2") == 1
    shown = capsys.readouterr().out
    assert "failed: " in shown
    assert "Failed:" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "lorra"], "did you mean 'lora'"),
        (["--methods", "lora", "--budget", "step=3"], "did you mean 'steps'"),
        (["--methods", "lora", "--seeds", "-1"], "--seeds"),
        (["--methods", "lora", "--eval-rows", "0"], "--eval-rows"),
        (["--methods", "lora", "--set", "rank=3"], "lora:rank="),
        (["--methods", "lora", "--score", "best"], "invalid choice: 'best'"),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, capsys, arguments, message):
    assert command(*arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "o").exists()


def test_the_help_has_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    shown = capsys.readouterr().out
    for option in ("--methods", "--budget", "--seeds", "--score", "--eval-rows", "--set"):
        assert option in shown
