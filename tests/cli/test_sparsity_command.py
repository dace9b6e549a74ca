"""`gossamer sparsity`: plans found, listed, shown, refused."""

import json

import pytest

from gossamer.cli.main import main
from gossamer.sparsity import load_plan


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": "What is this? " * 4, "completion": f"It is {i}."} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plan(model, rows, output, *more):
    options = ["--model", str(model), "--data", str(rows), "--output", str(output), *more]
    return main(["sparsity", "plan", *options, "--rows", "4", "--batch-size", "2"])


def test_a_plan_is_found_and_drawn(tiny_model, rows, tmp_path, capsys):
    output = tmp_path / "plans" / "plan.yaml"
    assert plan(tiny_model, rows, output, "--target", "0.7") == 0
    found = load_plan(output)
    assert found.num_layers == 3
    assert any(shares.any for shares in found.all_shares(3))
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "operations kept" in printed
    assert "loss, this plan" in printed
    assert plan(tiny_model, rows, output, "--target", "0.7") == 2
    assert "add --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target", "0.05"], "target 0.05 cannot be reached"),
        (["--target", "1.5"], "below 1"),
        (["--set", "mlp_share=[0.5]"], "did you mean 'mlp_shares'"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(tiny_model, rows, tmp_path, capsys, more, words):
    assert plan(tiny_model, rows, tmp_path / "plan.yaml", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "plan.yaml").exists()


def test_published_plans_are_listed_and_shown(capsys, tmp_path):
    assert main(["sparsity", "list"]) == 0
    assert "llama2-13b-csr" in capsys.readouterr().out
    assert main(["sparsity", "show", "llama3-8b-glue"]) == 0
    path = tmp_path / "shown.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_plan(path) == load_plan("llama3-8b-glue")
    assert main(["sparsity", "show", "llama3-8b"]) == 2
    assert "did you mean" in capsys.readouterr().err
