import json
import stat

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gossamer.adapters.merge import merge_into
from gossamer.adapters.write import bind_to_base
from gossamer.cli.main import main

from tiny import make_lora, make_tiny_model


@pytest.fixture
def adapters(tmp_path, tiny_model):
    root = tmp_path / "adapters"
    make_lora(root / "poet", tiny_model, rank=8, targets=("q_proj", "v_proj"))
    make_lora(root / "cook", tiny_model, rank=2, use_rslora=True)
    return root


def error_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("gossamer: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_list(adapters, capsys):
    assert main(["adapters", "list", str(adapters)]) == 0
    heading, cook, poet = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["name", "kind", "method", "rank"]
    assert cook.split()[:4] == ["cook", "low-rank", "rslora", "2"]
    assert poet.split()[:6] == ["poet", "low-rank", "lora", "8", "q_proj", "v_proj"]


@pytest.mark.parametrize("action", ["inspect", "merge"])
def test_limits_of_reading_are_options(adapters, tmp_path, capsys, tiny_model, action):
    command = ["adapters", action, str(adapters / "poet"), "--max-tensors", "5"]
    if action == "merge":
        command += ["--output", str(tmp_path / "merged"), "--model", str(tiny_model)]
    assert main(command) == 1
    assert "12 tensors, more than the 5 of max_tensors" in error_line(capsys)
    assert main(["adapters", "list", str(adapters), "--max-patterns", "-1"]) == 2
    assert "--max-patterns = -1" in error_line(capsys)


def test_one_broken_adapter_does_not_hide_the_others(adapters, capsys):
    (adapters / "poet" / "adapter_model.safetensors").write_bytes(b"short")
    assert main(["adapters", "list", str(adapters)]) == 0
    captured = capsys.readouterr()
    assert "unusable" in captured.out
    assert "cook" in captured.out
    assert "truncated or damaged" in captured.err
    assert main(["adapters", "list", str(adapters), "--json"]) == 0
    cook, poet = json.loads(capsys.readouterr().out)
    assert cook["rank"] == 2
    assert "truncated or damaged" in poet["problem"]


def test_list_of_nothing(tmp_path, capsys):
    assert main(["adapters", "list", str(tmp_path)]) == 0
    assert "no adapters in" in capsys.readouterr().err
    assert main(["adapters", "list", str(tmp_path / "nowhere")]) == 1
    assert "no folder" in error_line(capsys)


def test_inspect(adapters, tiny_model, capsys):
    assert main(["adapters", "inspect", str(adapters / "poet")]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert said["kind"] == "low-rank"
    assert said["rank"] == "8"
    assert said["targets"] == "q_proj, v_proj"
    assert said["base"] == str(tiny_model)
    assert main(["adapters", "inspect", str(adapters / "poet"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["digest"] == said["digest"]
    assert content["num_parameters"] == int(said["parameters"].replace(",", ""))


def test_inspect_errors(adapters, capsys):
    assert main(["adapters", "inspect", str(adapters)]) == 1
    assert "is no adapter" in error_line(capsys)


def test_merge_writes_a_model_that_transformers_loads(adapters, tiny_model, tmp_path, capsys):
    output = tmp_path / "new" / "merged"
    assert main(["adapters", "merge", str(adapters / "poet"), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    merged = AutoModelForCausalLM.from_pretrained(output)
    expected = AutoModelForCausalLM.from_pretrained(tiny_model)
    merge_into(expected, adapters / "poet")
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name]), name
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    assert [path.name for path in output.parent.iterdir()] == ["merged"]
    readable = stat.S_IMODE((output / "config.json").stat().st_mode)
    assert stat.S_IMODE((output / "model.safetensors").stat().st_mode) == readable


def test_merge_keeps_the_number_format_of_the_base(tmp_path, tiny_model, capsys):
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(half)
    adapter = make_lora(tmp_path / "a", half, rank=2)
    output = tmp_path / "merged"
    assert main(["adapters", "merge", str(adapter), "--output", str(output)]) == 0
    dtypes = {p.dtype for p in AutoModelForCausalLM.from_pretrained(output).parameters()}
    assert dtypes == {torch.bfloat16}


def test_merge_overwrites_only_models_and_only_on_request(adapters, tmp_path, capsys):
    output = tmp_path / "merged"
    output.mkdir()
    command = ["adapters", "merge", str(adapters / "poet"), "--output", str(output)]
    assert main(command) == 0, "an empty folder is free to use"
    capsys.readouterr()
    assert main(command) == 2
    assert "--overwrite" in error_line(capsys)
    (output / "old").write_text("")
    assert main([*command, "--overwrite"]) == 0
    assert not (output / "old").exists()
    capsys.readouterr()
    (output / "config.json").rename(output / "holiday.jpg")
    assert main([*command, "--overwrite"]) == 2
    assert "not a model folder" in error_line(capsys)
    assert (output / "holiday.jpg").exists()


def test_merge_never_overwrites_what_it_reads(adapters, tmp_path, capsys):
    base = make_tiny_model(tmp_path / "base")
    command = ["adapters", "merge", str(adapters / "poet"), "--model", str(base), "--overwrite"]
    assert main([*command, "--output", str(base)]) == 2
    assert "holds the input" in error_line(capsys)
    assert (base / "model.safetensors").exists()


def test_merge_needs_the_right_base(adapters, tmp_path, capsys):
    command = ["adapters", "merge", str(adapters / "poet"), "--output", str(tmp_path / "m")]
    other = make_tiny_model(tmp_path / "other", hidden_size=32)
    assert main([*command, "--model", str(other)]) == 1
    assert "but the base model has" in error_line(capsys)
    bind_to_base(adapters / "poet", "0123456789abcdef")
    assert main(command) == 1
    assert "fingerprint 0123456789ab" in error_line(capsys)
    assert not (tmp_path / "m").exists()


def test_merge_says_where_a_missing_base_was_named(tmp_path, tiny_model, capsys):
    adapter = make_lora(tmp_path / "a", tiny_model, rank=2, base_model_name_or_path="/gone/model")
    command = ["adapters", "merge", str(adapter), "--output", str(tmp_path / "m")]
    assert main(command) == 1
    assert "/gone/model; the adapter's config names it" in error_line(capsys)
    adapter = make_lora(tmp_path / "b", tiny_model, rank=2, base_model_name_or_path=None)
    assert main(["adapters", "merge", str(adapter), "--output", str(tmp_path / "m")]) == 2
    assert "--model" in error_line(capsys)
