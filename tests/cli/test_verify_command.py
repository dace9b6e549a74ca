"""`gossamer verify`: served answers against merged models and PEFT."""

import json
import sys

import pytest
import torch
from peft import get_peft_model
from runs import TINY, quiet_tune, write_rows
from transformers import AutoModelForCausalLM

from gossamer.cli.main import main
from gossamer.llm import Completion
from gossamer.serving.core.messages import TokenLogprob
from gossamer.tuners import BottleneckConfig
from gossamer.verification.references import ReferenceAnswer
from gossamer.verification.verify import compare

from tiny import make_lora


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    make_lora(folder / "one" / "same", tiny_model, rank=4, seed=1, size=0.5)
    make_lora(folder / "two" / "same", tiny_model, rank=16, seed=2, size=0.5, use_rslora=True)
    make_lora(folder / "dora", tiny_model, rank=4, use_dora=True)
    return folder


def verify(capsys, tiny_model, *arguments):
    fast = ["--new-tokens", "6", "--prompt", "Hi", "--prompt", "The capital of", "--memory", "0.01"]
    code = main(["verify", "--model", str(tiny_model), *fast, *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_adapters_of_one_name_agree_with_both_references(capsys, tiny_model, adapters):
    paths = [adapters / "one" / "same", adapters / "two" / "same"]
    code, out, _ = verify(capsys, tiny_model, *paths, "--json")
    verdicts = json.loads(out)
    assert code == 0
    found = {(v["adapter"], v["reference"]) for v in verdicts}
    assert found == {
        ("(base)", "transformers"), ("same", "merged"), ("same", "PEFT"),
        ("same~2", "merged"), ("same~2", "PEFT"),
    }  # fmt: skip
    for verdict in verdicts:
        assert verdict["equal_tokens"] == verdict["tokens"] == 12
        assert 0 < verdict["largest_difference"] < 1e-4


def test_what_stands_behind_layers_is_compared_with_peft(capsys, tiny_model, tmp_path):
    """A type of ours, which PEFT knows by our tuners, and which no weights can take up."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = BottleneckConfig(target_modules=["down_proj"], width=4, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, weight in model.named_parameters():
        if "bottleneck_up" in name:
            weight.data.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "behind")
    code, out, err = verify(capsys, tiny_model, tmp_path / "behind", "--json")
    assert code == 0
    agree = {v["reference"] for v in json.loads(out) if v["equal_tokens"] == v["tokens"] > 0}
    assert agree == {"transformers", "PEFT"}
    assert "not compared with PEFT" not in err


def test_answers_that_differ_fail(capsys, tiny_model, adapters):
    """Rows rounded to int8 are not the trained ones."""
    path = adapters / "one" / "same"
    code, out, _ = verify(capsys, tiny_model, path, "--adapter-rows", "int8", "--tolerance", "1e-5")
    assert code == 1
    lines = {line.split()[2]: line.split()[-1] for line in out.splitlines() if "same" in line}
    assert lines == {"merged": "FAIL", "PEFT": "FAIL"}
    assert "pass" in next(line for line in out.splitlines() if "(base)" in line)


def test_bases_that_differ_are_asked_for(capsys, adapters, tmp_path):
    path = adapters / "one" / "same"
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((path / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "another"})
    )
    assert main(["verify", str(path), str(other)]) == 2
    assert "give --model" in capsys.readouterr().err


def test_without_peft_only_merged_models_are_asked(capsys, tiny_model, adapters, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    code, out, err = verify(capsys, tiny_model, adapters / "one" / "same", "--json")
    assert code == 0
    assert {v["reference"] for v in json.loads(out)} == {"transformers", "merged"}
    assert "PEFT is not installed" in err


def test_what_only_peft_can_judge_asks_for_it(capsys, tiny_model, tmp_path, monkeypatch):
    make_prompt(tmp_path / "prompt", tiny_model)
    monkeypatch.setitem(sys.modules, "peft", None)
    code, out, err = verify(capsys, tiny_model, tmp_path / "prompt")
    assert (code, out) == (2, "")
    assert "prompt, which cannot be merged, needs PEFT" in err
    assert "pip install -e '.[tune]'" in err


@pytest.fixture(scope="module")
def qlora_run(tmp_path_factory, tiny_model):
    """What `gossamer tune --method qlora` leaves."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("qlora")
    rows = write_rows(folder / "rows.jsonl")
    quiet_tune(tiny_model, rows, folder / "runs" / "mine", method="qlora", max_steps=4, **TINY)
    return folder / "runs" / "mine"


def test_a_qlora_run_agrees_with_peft_on_the_base_that_it_was_trained_on(
    capsys, caplog, tiny_model, qlora_run
):
    code, out, _ = verify(capsys, tiny_model, qlora_run, "--quantization", "bnb-4bit", "--json")
    verdicts = json.loads(out)
    assert code == 0
    found = {(verdict["adapter"], verdict["reference"]) for verdict in verdicts}
    assert found == {("(base)", "transformers"), ("mine", "merged"), ("mine", "PEFT")}
    for verdict in verdicts:
        assert verdict["equal_tokens"] == verdict["tokens"] == 12
        assert verdict["largest_difference"] < 1e-4
    assert not caplog.records
    assert "--quantization bnb-4bit" in (qlora_run / "README.md").read_text()
    assert main(["adapters", "inspect", str(qlora_run)]) == 0
    assert "(quantised as bnb-4bit)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("way", "here"),
    [
        ("none", "whole"),
        pytest.param("bnb-8bit", "quantised as bnb-8bit", marks=pytest.mark.slow),
    ],
)
def test_a_qlora_run_on_another_precision_is_served_with_a_warning(
    capsys, caplog, tiny_model, qlora_run, way, here
):
    code, _, _ = verify(capsys, tiny_model, qlora_run, "--quantization", way)
    assert code == 0
    (record,) = [r for r in caplog.records if r.name.startswith("gossamer.adapters")]
    assert "adapter mine was trained on a base model quantised as bnb-4bit" in record.message
    assert f"this one is {here}" in record.message
    assert record.message.endswith("serve with --quantization bnb-4bit")


def test_whole_adapters_are_merged_into_what_a_quantised_base_stands_for(
    capsys, caplog, tiny_model, adapters, tmp_path
):
    """DoRA divides by row lengths, which are those of the rounded weights."""
    pytest.importorskip("bitsandbytes")
    make_dora(tmp_path / "dora", tiny_model)
    paths = [adapters / "one" / "same", tmp_path / "dora"]
    code, out, _ = verify(capsys, tiny_model, *paths, "--quantization", "bnb-8bit", "--json")
    assert code == 0
    for verdict in json.loads(out):
        assert verdict["problem"] is None
        assert verdict["largest_difference"] < 1e-4
    assert not caplog.records


def make_dora(folder, base):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2)
    model.save_pretrained(folder)


def make_prompt(folder, base):
    from peft import PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    get_peft_model(model, config).save_pretrained(folder)


def test_a_path_that_is_no_adapter(capsys, tiny_model, tmp_path):
    code, _, err = verify(capsys, tiny_model, tmp_path / "none")
    assert code == 1
    assert "none" in err
    assert "Traceback" not in err


def completion(*steps):
    logprobs = tuple(
        TokenLogprob(
            token_id=t, text="", logprob=top[t], top=tuple((i, "", p) for i, p in top.items())
        )
        for t, top in steps
    )
    return Completion(
        prompt_token_ids=(1,),
        adapter=None,
        text="",
        token_ids=tuple(t for t, _ in steps),
        finish_reason="length",
        logprobs=logprobs,
    )


def reference(tokens, *rows):
    return ReferenceAnswer(tuple(tokens), torch.tensor(rows, dtype=torch.float64))


def test_after_the_first_difference_nothing_is_compared():
    ours = completion((0, {0: -0.5, 1: -1.0}), (1, {0: -2.0, 1: -0.1}), (0, {0: -9.0, 1: -9.0}))
    theirs = reference([0, 0, 0], [-0.5, -1.25], [-1.0, -1.5], [0.0, 0.0])
    found = compare(ours, theirs, tolerance=0.1)
    assert found.equal_tokens == 1
    assert found.largest_difference == pytest.approx(1.4)
    assert not found.is_tie


def test_two_tokens_that_the_reference_holds_for_equal_are_a_tie():
    ours = completion((1, {0: -0.7001, 1: -0.7}))
    theirs = reference([0], [-0.7, -0.7001])
    assert compare(ours, theirs, tolerance=1e-3).is_tie
    assert not compare(ours, theirs, tolerance=1e-5).is_tie
