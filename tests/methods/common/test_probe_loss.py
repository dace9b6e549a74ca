"""The loss of a probe: the model's own, from the labelled positions alone."""

import pytest
import torch

from gossamer.basemodel.load import load_model
from gossamer.methods.common.probe_loss import backward, probe_loss

from tiny import make_tiny_model


def labelled_batch():
    """Three rows of 12 tokens, padded on the right, of which four or fewer are learnt."""
    ids = torch.arange(36).view(3, 12) + 5
    labels = ids.clone()
    labels[:, :6] = -100
    labels[0, 6:8] = -100
    labels[:, 10:] = -100
    mask = torch.ones_like(ids)
    mask[:, 10:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma3_text", "phi3"])
def test_loss_and_gradients_are_those_of_the_model(family, tmp_path):
    model = load_model(make_tiny_model(tmp_path / family, model_type=family), dtype=torch.float32)
    batch = labelled_batch()
    own = model(**batch).loss
    own.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    assert torch.allclose(probe_loss(model, batch), own, rtol=1e-6)
    backward(model, batch)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-7), name


def test_the_head_sees_only_positions_before_a_label(tiny_model):
    model = load_model(tiny_model, dtype=torch.float32)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    probe_loss(model, labelled_batch())
    # The outputs of positions 5 to 8 predict the labelled tokens 6 to 9.
    assert seen == [(3, 4, model.config.vocab_size)]
