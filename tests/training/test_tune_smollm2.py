"""The real small model learns through `lora`, and goes on after a stop."""

import pytest
from runs import quiet_tune, write_rows


@pytest.mark.slow
def test_smollm2_learns_and_goes_on_exactly(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    settings = {
        "batch_size": 2,
        "learning_rate": 1e-3,
        "eval_split": 4,
        "scheduler": "constant",
        "warmup": 0,
        "dropout": 0.1,
    }
    whole = quiet_tune("smollm2-135m", rows, tmp_path / "whole", max_steps=8, **settings)
    assert whole.eval_loss < whole.eval_loss_before / 2
    assert whole.trainable == 4_884_480
    quiet_tune("smollm2-135m", rows, tmp_path / "parts", max_steps=5, **settings)
    parts = quiet_tune(output=tmp_path / "parts", resume=True, max_steps=8)
    assert parts.losses == whole.losses
