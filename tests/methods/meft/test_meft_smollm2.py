"""MEFT's gradients on SmolLM2, thirty layers deep, against plain autograd of the same equations."""

import pytest
import torch
from meft_case import gradients, largest_error
from peft import get_peft_model
from test_meft_equations import plainly
from transformers import AutoTokenizer

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model
from gossamer.methods.meft.model import MeftConfig

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_on_a_real_model(dtype):
    """Its states have single channels of thousands, which tiny random models lack."""
    folder = resolve("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "There are 3 cars in the parking lot and 2 more arrive, so there are 3 + 2 = 5 cars."
    ids = tokenizer(text, return_tensors="pt").input_ids
    torch.manual_seed(0)
    model = get_peft_model(load_model(folder, dtype=dtype), MeftConfig()).train()
    inputs = {"input_ids": ids, "labels": ids}
    expected_loss, expected = gradients(model, plainly(model, inputs))
    loss, found = gradients(model, model(**inputs, use_cache=False).loss)
    assert loss == expected_loss
    assert loss < 4
    assert largest_error(found, expected) < 1e-5
