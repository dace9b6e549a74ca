"""Packed rows: the loss and gradients of separate rows, for every family, or a refusal."""

import pytest
import torch
from runs import TINY, quiet_tune, step_losses, write_rows
from transformers import AutoModelForCausalLM

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import SettingError, UnsupportedModelError
from gossamer.training.collation import collator, features, token_mask
from gossamer.training.data import DataSettings, Example, load_data
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import read_metrics, train_records
from gossamer.training.packing.check import prove_packing
from gossamer.training.packing.rows import pack

from tiny import make_tiny_model

LENGTH = 150


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", 9)


def test_rows_are_put_together_whole(tiny_model, rows):
    settings = DataSettings(data=str(rows), max_length=LENGTH, eval_split=1)
    data = load_data(settings, load_tokenizer(tiny_model), seed=0)
    packed = pack(data, LENGTH)
    assert len(packed.train) < len(data.train) / 1.5
    assert packed.eval == data.eval
    taken = []
    for row in packed.train:
        assert sum(row.lengths) == len(row.input_ids) <= LENGTH
        start = 0
        for length in row.lengths:
            end = start + length
            taken.append(Example(row.input_ids[start:end], row.labels[start:end]))
            start = end
    assert sorted(taken, key=str) == sorted(data.train, key=str)
    assert f"packed into {len(packed.train)} rows of at most" in "\n".join(packed.report.lines())


def test_positions_begin_anew_and_padding_is_told_apart(tiny_model):
    packed = [
        Example([1, 2, 3, 4, 5], [-100, 2, 3, -100, 5], (3, 2)),
        Example([6, 7], [-100, 7], (2,)),
    ]
    batch = collator(load_tokenizer(tiny_model))([features(row) for row in packed])
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert token_mask(batch).tolist() == [[True] * 5, [True, True, False, False, False]]


FAMILIES = [
    "llama",
    "gemma2",
    *(pytest.param(f, marks=pytest.mark.slow) for f in ("qwen2", "mistral")),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_separate_rows(family, rows, tmp_path):
    # A sliding window shorter than a packed row.
    window = {"sliding_window": 20} if family in ("mistral", "gemma2") else {}
    base = make_tiny_model(tmp_path / "base", model_type=family, **window)
    settings = {**TINY, "epochs": 1, "batch_size": 9, "max_length": LENGTH, "warmup": 0}
    settings |= {"density_loss": 0.1, "density_epsilon": 1e-2}
    apart = quiet_tune(base, rows, tmp_path / "apart", **settings)
    packed = quiet_tune(base, rows, tmp_path / "packed", packing=True, **settings)
    assert (apart.steps, packed.steps) == (1, 1)
    one, other = (train_records(read_metrics(run.output))[0] for run in (apart, packed))
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert one["tokens"] == other["tokens"]
    assert one["trained_tokens"] == other["trained_tokens"]
    assert one["density"] == pytest.approx(other["density"], abs=1e-5)


class Interrupt(Listener):
    def step(self, record):
        if record["step"] == 4:
            raise RuntimeError("stopped here")


@pytest.mark.parametrize("method", ["smt", pytest.param("houlsby", marks=pytest.mark.slow)])
def test_it_resumes_exactly(method, rows, tiny_model, tmp_path):
    settings = {"max_steps": 5, "save_every": 2, "max_length": LENGTH, "batch_size": 2}
    settings |= {"packing": True, "learning_rate": 1e-3, "eval_split": 1, "method": method}
    settings |= {"smt": {"block_size": 8, "attention_ratio": 0.02}, "houlsby": {}}[method]
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **settings)
    assert whole.losses[-1] < whole.losses[0]
    with pytest.raises(RuntimeError, match="stopped here"):
        quiet_tune(tiny_model, rows, tmp_path / "parts", listener=Interrupt(), **settings)
    quiet_tune(output=tmp_path / "parts", resume=True)
    assert step_losses(tmp_path / "parts") == step_losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "prompt_tuning"}, "virtual tokens stand in front"),
        ({"method": "loreft"}, "edits the first and last tokens of each prompt"),
        ({"sparse_compute": "llama2-7b-csr"}, "packed rows have no contiguous context"),
    ],
)
def test_what_would_be_wrong_is_refused(settings, reason, rows, tiny_model, tmp_path):
    with pytest.raises(SettingError, match=reason):
        quiet_tune(tiny_model, rows, tmp_path / "run", packing=True, max_steps=1, **settings)
    assert not (tmp_path / "run").exists()


def test_a_model_that_mixes_rows_is_refused(tiny_model, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prove_packing(model)
    prove_packing(model.to(torch.bfloat16))
    # As an attention that knows nothing of packed rows.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda ids: None)
    with pytest.raises(UnsupportedModelError, match="does not keep packed rows apart"):
        prove_packing(model)
