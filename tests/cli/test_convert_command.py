"""`gossamer adapters convert`: what it prints and what it refuses."""

import json

import pytest
import torch
from peft import ShiraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.cli.main import main

from tiny import make_lora


@pytest.fixture
def shira(tmp_path, tiny_model):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = get_peft_model(base, ShiraConfig(r=3, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight += torch.randn(weight.shape)
    model.save_pretrained(tmp_path / "shira", save_embedding_layers=False)
    return tmp_path / "shira"


def test_sparse_changes_with_the_error_of_each_matrix(shira, tmp_path, tiny_model, capsys):
    out = tmp_path / "lora"
    command = ["adapters", "convert", str(shira), "--output", str(out), "--model", str(tiny_model)]
    assert main([*command, "--rank", "5"]) == 0
    captured = capsys.readouterr()
    heading, *rows, last = captured.out.splitlines()
    assert heading.split() == ["layer", "rank", "relative", "error"]
    assert last == str(out)
    record = json.loads((out / "conversion.json").read_text())
    assert [row.split() for row in rows] == [
        [part["module"], "5", f"{part['error']:.2e}"] for part in record["modules"]
    ]
    assert f"at worst {record['worst']['error']:.2e}" in captured.err
    assert main(["adapters", "inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 5


def test_lora_of_another_scale_is_exact(tmp_path, tiny_model, capsys):
    folder = make_lora(tmp_path / "a", tiny_model, rank=2, use_rslora=True)
    command = ["adapters", "convert", str(folder), "--output", str(tmp_path / "lora"), "--json"]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["exact"] is True
    assert record["method"] == "rslora"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--rank R, --max-error E"),
        (["--rank", "0"], "--rank 0: a rank is at least 1"),
        (["--max-error", "1"], "--max-error 1: the relative error must be from 1e-06 to below 1"),
        (["--rank", "1", "--max-error", "0.01"], "raise --rank or --max-error"),
        (["--rank", "4", "--max-tensors", "5"], "more than the 5 of max_tensors"),
    ],
)
def test_refusals(shira, tmp_path, tiny_model, capsys, options, message):
    out = tmp_path / "lora"
    command = ["adapters", "convert", str(shira), "--output", str(out), "--model", str(tiny_model)]
    assert main([*command, *options]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_file_cannot_be_the_parent_of_the_output(tmp_path, tiny_model, capsys):
    folder = make_lora(tmp_path / "a", tiny_model, rank=2)
    (tmp_path / "file").write_text("")
    assert main(["adapters", "convert", str(folder), "--output", str(tmp_path / "file/b")]) == 1
    told = capsys.readouterr().err
    assert f"not a directory ('{tmp_path}/file'); a part of that path is a file" in told
    assert "Errno" not in told
