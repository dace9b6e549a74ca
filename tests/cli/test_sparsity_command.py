"""`gossamer sparsity`: plans found, listed, shown, refused."""

import json
import re

import pytest

from gossamer.cli.main import main
from gossamer.sparsity import load_plan
from gossamer.sparsity.search.halfway import JointLoss


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": "What is this? " * 4, "completion": f"It is {i}."} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plan(model, rows, output, *more):
    options = ["--model", str(model), "--data", str(rows), "--output", str(output), *more]
    few = ["--rows", "4", "--batch-size", "2", "--set", "sample_tokens=4"]
    return main(["sparsity", "plan", *options, *few])


def test_by_default_the_way_back_is_shortened_and_the_loss_stays(
    tiny_model, rows, tmp_path, capsys
):
    output = tmp_path / "plan.yaml"
    assert plan(tiny_model, rows, output) == 0
    shares = load_plan(output).all_shares(3)
    assert [s.back for s in shares] == [0.9] * 3
    assert not any(s.mlp or s.qk or s.vo for s in shares)
    printed = capsys.readouterr().out
    dense, found = re.findall(r"loss, (?:dense|this plan) +(\S+)", printed)
    assert dense == found
    assert re.search(r"going back through a product +10.0%", printed)
    kept = float(re.search(r"operations kept +(\S+)%", printed)[1])
    assert kept < 85


def test_channels_are_dropped_only_for_what_the_way_back_cannot_save(
    tiny_model, rows, tmp_path, capsys
):
    mild, strong = tmp_path / "mild.yaml", tmp_path / "strong.yaml"
    assert plan(tiny_model, rows, mild, "--target", "0.85") == 0
    assert 0 < load_plan(mild).shares(0).back < 0.9
    assert not load_plan(mild).mlp
    assert plan(tiny_model, rows, strong, "--target", "0.75", "--max-increase", "5") == 0
    shares = load_plan(strong).shares(1)
    assert shares.back == 0.9
    assert shares.mlp > 0
    given = tmp_path / "given.yaml"
    assert plan(tiny_model, rows, given, "--target", "0.85", "--back", "0.5") == 0
    assert load_plan(given).shares(0).back == 0.5
    assert plan(tiny_model, rows, tmp_path / "no.yaml", "--search", "sweep", "--back", "0.5") == 2
    assert "back=0.5: the sweep searches channels alone" in capsys.readouterr().err


def test_a_plan_of_channels_is_found_and_drawn(tiny_model, rows, tmp_path, capsys):
    output = tmp_path / "plans" / "plan.yaml"
    assert plan(tiny_model, rows, output, "--target", "0.85", "--back", "0") == 0
    found = load_plan(output)
    assert found.num_layers == 3
    assert any(shares.any for shares in found.all_shares(3))
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "operations kept" in printed
    assert "of these, to choose and replace channels" in printed
    assert "loss, this plan" in printed
    # Of MLPs alone, more in later layers.
    assert sorted(found.all_shares(3), key=lambda shares: shares.mlp) == found.all_shares(3)
    assert found.mlp["2"] == 0.99
    assert not found.qk
    assert not found.vo
    assert plan(tiny_model, rows, output, "--target", "0.85", "--back", "0") == 2
    assert "add --overwrite" in capsys.readouterr().err


def test_a_sweep_begins_with_the_shares_of_the_rule_and_is_drawn(
    tiny_model, rows, tmp_path, capsys
):
    output = tmp_path / "plan.yaml"
    more = ["--search", "sweep", "--set", "exchanges=2", "--set", "attention_shares=[0.5]"]
    assert plan(tiny_model, rows, output, "--max-increase", "0.5", *more) == 0
    printed = dict(re.findall(r"^(loss, .*?)  +(\S+) *$", capsys.readouterr().out, re.MULTILINE))
    dense, found, equal = (
        float(printed[f"loss, {name}"]) for name in ("dense", "this plan", "shares by the rule")
    )
    assert found <= equal <= dense + 0.5
    assert load_plan(output).num_layers == 3


def test_a_target_that_costs_too_much_is_refused_and_can_be_accepted(
    tiny_model, rows, tmp_path, capsys, monkeypatch
):
    # A nat for each layer without its MLP, but for the last one, which is not read.
    monkeypatch.setattr(
        JointLoss,
        "__call__",
        lambda self, plan: self.dense + sum(s.mlp for s in plan.all_shares(3)[:2]),
    )
    output = tmp_path / "plan.yaml"
    assert (
        plan(tiny_model, rows, output, "--target", "0.85", "--back", "0", "--max-increase", "0.3")
        == 2
    )
    message = capsys.readouterr().err.splitlines()[-1]
    assert "target 0.85: the plan adds" in message
    assert "more than max_increase 0.3" in message
    assert not output.exists()
    accepted = message.rsplit("max_increase=", 1)[1]
    assert 0.3 < float(accepted) < 3
    channels = ["--target", "0.85", "--back", "0", "--max-increase", accepted]
    assert plan(tiny_model, rows, output, *channels) == 0
    # What the message offers is what comes without a target.
    offered = message.split("leave the target out, which keeps ")[1].split(",")[0]
    channels = ["--back", "0", "--max-increase", "0.3"]
    assert plan(tiny_model, rows, output, *channels, "--overwrite") == 0
    assert load_plan(output).mlp == {"0": 0.119, "1": 0.17, "2": 0.99}
    kept = re.search(r"operations kept +(\S+)%", capsys.readouterr().out.split("plan.png")[1])[1]
    assert float(offered) == pytest.approx(float(kept) / 100, abs=0.006)


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
