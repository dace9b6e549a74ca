"""How many weights SMT trains, and the size of its blocks."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gossamer.errors import SettingError
from gossamer.methods.smt.budget import block_size_of, budget_of, count_weights
from gossamer.methods.smt.select import any_blocks, select_blocks
from gossamer.methods.smt.settings import SmtSettings

from tiny import make_context, module_shapes

LLAMA_7B = {"vocab_size": 32000}
LLAMA3_8B = {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8}


def meta_model(**shape):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**shape))


@pytest.mark.parametrize(
    ("shape", "weights", "ratio", "count"),
    [
        # Blocks of 256 that the published ratios mean for LLaMA-7B and LLaMA3-8B.
        (LLAMA_7B, 6_738_149_376, 0.0084, 863),
        (LLAMA3_8B, 8_029_995_008, 0.0071, 869),
        (LLAMA3_8B, 8_029_995_008, 0.0084, 1029),
    ],
)
def test_the_number_of_blocks_is_that_of_the_released_code(shape, weights, ratio, count):
    model = meta_model(**shape)
    assert count_weights(model) == weights
    budget = budget_of(model, SmtSettings(attention_ratio=ratio))
    assert (budget.block_size, budget.weights) == (256, {"attention": count * 256**2, "mlp": 0})


@pytest.mark.parametrize(
    ("hidden_size", "edge"), [(64, 64), (576, 64), (1984, 64), (2048, 256), (4096, 256)]
)
def test_auto_is_small_blocks_for_narrow_models(hidden_size, edge):
    model = torch.nn.Module()
    model.config = LlamaConfig(hidden_size=hidden_size)
    assert block_size_of(model, SmtSettings()) == edge
    assert block_size_of(model, SmtSettings(block_size=32)) == 32


def test_auto_needs_to_know_the_width():
    with pytest.raises(SettingError, match=r"needs a model with a config .* give a number"):
        block_size_of(torch.nn.Linear(4, 4), SmtSettings())


def test_a_budget_in_ranks_is_the_number_of_weights_of_lora(tiny_model):
    from gossamer import methods
    from gossamer.basemodel.load import load_model

    model = load_model(tiny_model, dtype=torch.float32)
    settings = SmtSettings(lora_rank=8, block_size=4)
    lora = methods.find("lora").from_values({"rank": 8})
    context = make_context(tiny_model)
    wanted = lora.trainable_parameters(load_model(tiny_model, dtype=torch.float32), context)
    shapes = module_shapes(tiny_model)
    mlp = sum(8 * (o + i) for path, (o, i) in shapes.items() if ".mlp." in path)
    assert budget_of(model, settings).weights == {"attention": wanted - mlp, "mlp": mlp}
    ids = torch.arange(5, 29).view(2, 12)
    chosen = select_blocks(model, [{"input_ids": ids, "labels": ids}], settings)
    sizes = {path: sum(b.size for b in blocks) for path, blocks in chosen.items()}
    assert sum(sizes.values()) == wanted
    assert sum(size for path, size in sizes.items() if ".mlp." in path) == mlp
    counted = any_blocks(model, settings)
    assert sum(b.size for blocks in counted.values() for b in blocks) == wanted


def test_a_rank_too_small_for_a_block_is_refused(tiny_model):
    model = meta_model(hidden_size=32, intermediate_size=64, num_hidden_layers=1, vocab_size=64)
    with pytest.raises(SettingError, match="lora_rank = 1 for attention is less than one block of"):
        any_blocks(model, SmtSettings(lora_rank=1))


@pytest.mark.parametrize("name", ["attention_ratio", "mlp_ratio"])
def test_a_budget_is_stated_once(name):
    with pytest.raises(SettingError, match=f"{name} and lora_rank both state the budget"):
        SmtSettings.parse({"lora_rank": 16, name: 0.01})
    SmtSettings.parse(SmtSettings(lora_rank=16).model_dump())
