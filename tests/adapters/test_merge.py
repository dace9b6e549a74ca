import pytest
import torch
from transformers import AutoModelForCausalLM

from gossamer.adapters.merge import merge_into
from gossamer.errors import (
    AdapterFormatError,
    BaseMismatchError,
    UnsupportedAdapterError,
    UnsupportedModelError,
)

from tiny import make_lora, make_tiny_model


@pytest.fixture
def base(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def test_rounds_once_to_the_models_format(tmp_path, tiny_model, base):
    folder = make_lora(tmp_path / "a", tiny_model, rank=4)
    exact = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).float()
    half = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    merge_into(exact, folder)
    assert merge_into(half, folder) == 21
    for name, weight in half.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, exact.state_dict()[name].bfloat16()), name


def refused_without_change(model, folder, error, match, **options):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(error, match=match):
        merge_into(model, folder, **options)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_another_base(tmp_path, base):
    other = make_tiny_model(tmp_path / "other", intermediate_size=96)
    folder = make_lora(tmp_path / "a", other, rank=4)
    refused_without_change(base, folder, BaseMismatchError, r"\[48, 96\].*\[48, 100\]")


def test_a_deeper_base(tmp_path, base):
    other = make_tiny_model(tmp_path / "other", num_hidden_layers=4)
    folder = make_lora(tmp_path / "a", other, rank=4)
    refused_without_change(base, folder, BaseMismatchError, r"layers\.3\.")


def test_dora_without_magnitudes(tmp_path, tiny_model, base):
    folder = make_lora(tmp_path / "a", tiny_model, rank=4, use_dora=True)
    refused_without_change(base, folder, AdapterFormatError, "no magnitude vector")


def test_a_layer_that_is_not_linear(tmp_path, tiny_model, base):
    class Other(torch.nn.Linear):
        pass

    folder = make_lora(tmp_path / "a", tiny_model, rank=4)
    base.model.layers[2].mlp.up_proj.__class__ = Other
    refused_without_change(base, folder, UnsupportedModelError, "is a Other")


def test_an_output_layer_tied_to_the_embedding(tmp_path, tiny_model, base):
    from gossamer.adapters.kinds.low_rank import Factors
    from gossamer.adapters.write import write_low_rank

    vocabulary, hidden = base.lm_head.weight.shape
    factors = {"lm_head": Factors(torch.ones(2, hidden), torch.ones(vocabulary, 2), 1.0)}
    folder = write_low_rank(tmp_path / "a", factors)
    refused_without_change(base, folder, UnsupportedModelError, "merging would change both")


def test_unsupported_parts_are_refused(tmp_path, tiny_model, base):
    folder = make_lora(tmp_path / "a", tiny_model, rank=4, use_qalora=True)
    refused_without_change(base, folder, UnsupportedAdapterError, "QA-LoRA")
