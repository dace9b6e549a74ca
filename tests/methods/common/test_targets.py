"""Which layers `target_modules` means."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.errors import SettingError
from gossamer.methods.common.targets import resolve_targets

from tiny import ALL_LINEAR, SHAPE


@pytest.fixture(scope="module")
def llama():
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", vocab_size=64, **SHAPE)
        )


@pytest.fixture(scope="module")
def gpt2():
    config = AutoConfig.for_model("gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=2)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_shorthands(llama):
    assert resolve_targets(llama, "all-linear") == sorted(ALL_LINEAR)
    assert resolve_targets(llama, "attention") == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert resolve_targets(llama, "mlp") == ["down_proj", "gate_proj", "up_proj"]


def test_shorthands_of_a_model_with_other_names(gpt2):
    assert resolve_targets(gpt2, "attention") == ["c_attn", "c_proj"]
    assert "lm_head" not in resolve_targets(gpt2, "all-linear")


def test_a_list_is_sorted_and_may_hold_longer_ends_of_paths(llama):
    wanted = ["v_proj", "layers.0.self_attn.q_proj", "v_proj"]
    assert resolve_targets(llama, wanted) == ["layers.0.self_attn.q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["q_proj", "qq_proj"], "'qq_proj' matches no layer; available: down_proj, gate_proj"),
        ("atention", "did you mean 'attention'"),
        ([], "target_modules is empty"),
        (["lm_head"], "'lm_head' is the output head"),
        (["self_attn"], "'self_attn' is a LlamaAttention, not a linear layer"),
        (["embed_tokens"], "'embed_tokens' is a Embedding, not a linear layer"),
    ],
)
def test_what_matches_nothing_is_refused(llama, wanted, message):
    with pytest.raises(SettingError) as raised:
        resolve_targets(llama, wanted)
    assert message in str(raised.value)
