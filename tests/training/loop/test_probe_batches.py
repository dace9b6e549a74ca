"""What a method may look at before a run: the batches that the run then trains on."""

import pytest
import torch
from runs import TINY, quiet_tune, write_rows

from gossamer.errors import SettingError
from gossamer.methods import MethodContext
from gossamer.methods.lora import Lora
from gossamer.training.loop.trainer import RunTrainer


@pytest.fixture
def seen(monkeypatch):
    """Batches as (probed, trained on), of the runs of the test."""
    probed, trained = [], []
    prepare, step = Lora.prepare, RunTrainer.training_step

    def looking(self, model, context):
        probed.extend(context.probe_batches(5))
        return prepare(self, model, context)

    def recording(self, model, inputs, *rest):
        trained.append({name: tensor.clone() for name, tensor in inputs.items()})
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(Lora, "prepare", looking)
    monkeypatch.setattr(RunTrainer, "training_step", recording)
    return probed, trained


def test_a_probe_sees_the_first_batches_of_the_run(seen, tiny_model, tmp_path):
    probed, trained = seen
    data = write_rows(tmp_path / "rows.jsonl", 10)
    quiet_tune(
        tiny_model, data, tmp_path / "run", max_steps=4, gradient_accumulation=2, seed=3, **TINY
    )
    assert len(probed) == 5
    assert len(trained) == 8
    for before, during in zip(probed, trained, strict=False):
        assert before.keys() >= {"input_ids", "attention_mask", "labels"}
        assert all(torch.equal(before[name], during[name]) for name in before)


def test_a_run_that_has_fewer_batches_gives_fewer(seen, tiny_model, tmp_path):
    probed, trained = seen
    data = write_rows(tmp_path / "rows.jsonl", 6)
    quiet_tune(tiny_model, data, tmp_path / "run", epochs=1, **TINY)
    assert [len(batch["input_ids"]) for batch in probed] == [4, 2]
    assert len(trained) == 2


def test_looking_changes_nothing(seen, tiny_model, tmp_path, monkeypatch):
    data = write_rows(tmp_path / "rows.jsonl", 10)
    settings = {**TINY, "dropout": 0.2, "max_steps": 3}
    looked = quiet_tune(tiny_model, data, tmp_path / "looked", **settings)
    monkeypatch.undo()
    plain = quiet_tune(tiny_model, data, tmp_path / "plain", **settings)
    assert looked.losses == plain.losses


def test_outside_a_run_there_is_nothing_to_look_at(tmp_path):
    context = MethodContext(
        model_name="m",
        base_folder=tmp_path,
        base_fingerprint="f",
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=1,
    )
    with pytest.raises(SettingError, match="give MethodContext its probe_batches"):
        context.probe_batches(1)
