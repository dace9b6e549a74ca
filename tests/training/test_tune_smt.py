"""Runs of SMT: an adapter from a probe, a whole model from real warm-up steps, exact resume."""

import shutil

import pytest
import torch
from peft import PeftModel
from runs import quiet_tune, step_losses, write_rows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gossamer.adapters.merge import merge_into
from gossamer.basemodel.files import fingerprint
from gossamer.errors import SettingError
from gossamer.training.dry_run import dry_run
from gossamer.training.outputs.metrics import read_metrics, train_records
from gossamer.training.run import collect

SMT = {
    "method": "smt",
    "block_size": 8,
    "attention_ratio": 0.05,
    "mlp_ratio": 0.1,
    "learning_rate": 3e-3,
    "batch_size": 4,
    "max_steps": 6,
}
TRAIN = {**SMT, "selection": "train", "warmup_steps": 4, "warmup_learning_rate": 1e-3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def losses(folder):
    return [loss for _, loss in step_losses(folder)]


def test_a_probed_run_leaves_an_adapter_for_the_base(tiny_model, rows, tmp_path):
    result = quiet_tune(tiny_model, rows, tmp_path / "run", **{**SMT, "max_steps": 25})
    found = losses(tmp_path / "run")
    assert sum(found[-5:]) < sum(found[:5]) - 1
    model = PeftModel.from_pretrained(load(tiny_model), tmp_path / "run")
    stored = load_file(tmp_path / "run" / "adapter_model.safetensors")
    values = [t for name, t in stored.items() if name.endswith("smt_values")]
    assert result.trainable == sum(t.numel() for t in values)
    ids = torch.arange(20)[None] + 5
    base, merged = load(tiny_model), load(tiny_model)
    layers = merge_into(merged, tmp_path / "run", base_fingerprint=fingerprint(tiny_model))
    assert layers == len(values)
    with torch.no_grad():
        learnt = model(ids).logits
        assert torch.allclose(merged(ids).logits, learnt, atol=1e-4)
        assert not torch.allclose(base(ids).logits, learnt, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "saved_at"),
    [
        (SMT, 3),
        (TRAIN, 2),
        (TRAIN, 4),
        (TRAIN, 5),
        # Each stage has a trainer of its own, which must compute in bfloat16 as well.
        ({**TRAIN, "dtype": "bfloat16"}, 5),
    ],
)
def test_resuming_equals_the_undisturbed_run(tiny_model, rows, tmp_path, settings, saved_at):
    whole = tmp_path / "whole"
    quiet_tune(tiny_model, rows, whole, save_every=saved_at, save_total_limit=9, **settings)
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for folder in (again / "checkpoints").iterdir():
        if folder.name != f"step-{saved_at}":
            shutil.rmtree(folder)
    record = (again / "run.yaml").read_text()
    (again / "run.yaml").write_text(record[: record.index("\nresult:") + 1])
    quiet_tune(output=again, resume=True, dtype=settings.get("dtype", "float32"))
    assert losses(again) == losses(whole)
    for file in ("adapter_model.safetensors", "model.safetensors"):
        if (whole / file).exists():
            assert (again / file).read_bytes() == (whole / file).read_bytes()


def test_gradient_checkpointing_changes_nothing(tiny_model, rows, tmp_path):
    for checkpointing in (False, True):
        options = {**SMT, "gradient_checkpointing": checkpointing, "max_steps": 2}
        quiet_tune(tiny_model, rows, tmp_path / str(checkpointing), **options)
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), abs=1e-5)


def test_a_trained_warm_up_moves_the_base_and_leaves_a_whole_model(tiny_model, rows, tmp_path):
    output = tmp_path / "run"
    quiet_tune(tiny_model, rows, output, **TRAIN)
    assert len(train_records(read_metrics(output))) == 6
    assert not (output / "adapter_config.json").exists()
    card = (output / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    base, model = load(tiny_model), load(output)
    blocks = load_file(output / "smt_blocks.safetensors")
    # The warm-up moved weights that no block covers, embeddings among them.
    embeddings = base.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert not torch.equal(*embeddings)
    assert any(name.endswith("smt_values") and t.abs().sum() > 0 for name, t in blocks.items())


def test_a_warm_up_as_long_as_the_run_is_refused(tiny_model, rows, tmp_path):
    with pytest.raises(SettingError, match="warmup_steps = 6 leaves none of the 6 steps"):
        quiet_tune(tiny_model, rows, tmp_path / "run", **{**TRAIN, "warmup_steps": 6})


@pytest.mark.parametrize("settings", [SMT, TRAIN])
def test_a_dry_run_counts_without_weights(tiny_model, rows, tmp_path, settings):
    options = {k: v for k, v in settings.items() if k in ("batch_size", "max_steps")}
    given = {k: v for k, v in settings.items() if k not in ("method", *options)}
    wanted = {"model": str(tiny_model), "data": str(rows), "output": str(tmp_path / "run")}
    run_settings, _ = collect(None, {**wanted, "method": "smt", **options}, given, resume=False)
    assert all(stage.trainable > 0 for stage in dry_run(run_settings).memory)
