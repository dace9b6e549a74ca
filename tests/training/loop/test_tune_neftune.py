"""NEFTune: noise on the embeddings in training alone, the same after a resume."""

import pytest
import torch
from runs import TINY, quiet_tune, write_rows
from transformers.integrations.neftune import neftune_post_forward_hook

from gossamer.training.outputs.listener import Listener

SETTINGS = {**TINY, "max_steps": 4, "save_every": 2, "eval_split": 2}


class Interrupt(Listener):
    def step(self, record):
        if record["step"] == 4:
            raise RuntimeError("stopped here")


def test_noise_changes_training_only_and_resumes_exactly(tiny_model, tmp_path, monkeypatch):
    sizes = []

    def watched(module, inputs, output):
        noisy = neftune_post_forward_hook(module, inputs, output)
        if module.training:
            scale = 5 / (output.shape[1] * output.shape[2]) ** 0.5
            sizes.append(((noisy - output).abs().max() / scale).item())
        else:
            assert torch.equal(noisy, output)
        return noisy

    monkeypatch.setattr("transformers.integrations.neftune.neftune_post_forward_hook", watched)
    rows = write_rows(tmp_path / "rows.jsonl")

    def run(folder, **settings):
        return quiet_tune(tiny_model, rows, tmp_path / folder, **{**SETTINGS, **settings})

    plain = run("plain")
    assert not sizes
    noisy = run("noisy", neftune_noise_alpha=5)
    assert len(sizes) == 4
    assert all(0.99 < size <= 1 for size in sizes)
    assert noisy.losses[0] != plain.losses[0]
    assert noisy.eval_loss_before == plain.eval_loss_before
    with pytest.raises(RuntimeError, match="stopped here"):
        run("parts", neftune_noise_alpha=5, listener=Interrupt())
    assert quiet_tune(output=tmp_path / "parts", resume=True).losses == noisy.losses
