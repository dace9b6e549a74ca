"""The criterion `sample`: true norms of a few tokens, and exactly the masked products."""

import pytest
import torch
from sparse_case import (
    ATTENTION,
    MLP,
    batch,
    gradients,
    masked_dense,
    recorded,
    tiny_base,
    with_lora,
)
from test_sparse_products import assert_same
from torch.nn import functional as F

from gossamer.sparsity import SparsityPlan, sparsify
from gossamer.sparsity.family import HeadShape, key_scores, top_channels
from gossamer.sparsity.tokens import split_tokens

PLAN = SparsityPlan(
    mlp={"0-2": 0.6}, qk={"1-2": 0.5}, vo={"0": 0.3, "2": 0.5}, start=0, sample_tokens=4
)
# The libraries' own names for the same thing are changing.
renamed = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")


@renamed
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP], ids=len)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("sample_of", ["batch", "row"])
@pytest.mark.parametrize("span", ["batch", "sample"])
def test_equals_masked_dense(span, sample_of, padding, targets, checkpointing, monkeypatch):
    model = with_lora(tiny_base(), targets)
    inputs = batch(padding=padding)
    plan = PLAN.updated({"span": span, "sample_of": sample_of})
    split = split_tokens(plan, inputs["labels"], inputs["attention_mask"], shape=(3, 14))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with recorded(monkeypatch) as chosen, sparsify(model, plan) as handle:
        sparse = gradients(model, inputs)
        assert handle.tally.scored_tokens == split.sampled.numel()
    assert len(chosen) == 6
    model.gradient_checkpointing_disable()
    tokens = torch.zeros(42, dtype=torch.bool)
    tokens[split.sparse] = True
    with masked_dense(model, chosen, tokens.view(3, 14)):
        assert_same(gradients(model, inputs), sparse, 1e-11)
    assert not torch.allclose(gradients(model, inputs)[0], sparse[0])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("padding", ["left", "none"])
def test_channels_are_those_that_matter_most_over_the_sample(family, padding, monkeypatch):
    model, inputs = with_lora(tiny_base(family)), batch(padding=padding)
    split = split_tokens(PLAN, inputs["labels"], inputs["attention_mask"], shape=(3, 14))
    assert 0 < split.sampled.numel() <= 4
    inner = model.get_base_model().model.layers[2]
    seen = {}
    for name, block in (("attention", inner.self_attn), ("mlp", inner.mlp)):
        block.register_forward_pre_hook(
            lambda m, args, kwargs, name=name: seen.update(
                {name: (args[0] if args else kwargs["hidden_states"]).detach()}
            ),
            with_kwargs=True,
        )
    with recorded(monkeypatch) as found, sparsify(model, PLAN):
        gradients(model, inputs)
    rows = {name: x.reshape(42, -1)[split.sampled] for name, x in seen.items()}
    with torch.no_grad():
        mlp = inner.mlp
        hidden = F.silu(mlp.gate_proj(rows["mlp"])) * mlp.up_proj(rows["mlp"])
        added = hidden.norm(dim=0) * mlp.down_proj.weight.norm(dim=0)
        bases = {n: getattr(inner.self_attn, n).get_base_layer() for n in ATTENTION[:3]}
        norms = {name: base(rows["attention"]).norm(dim=0) for name, base in bases.items()}
    heads = HeadShape(query_heads=4, key_heads=2, head_dim=16)
    keys = key_scores(norms["q_proj"], norms["k_proj"], heads, released=False)
    path = "base_model.model.model.layers.2"
    expected = top_channels(added, 0.6)
    assert torch.equal(found[f"{path}.mlp"]["gate_proj"], expected)
    assert torch.equal(found[f"{path}.self_attn"]["k_proj"], top_channels(keys, 0.5))
    values = top_channels(norms["v_proj"], 0.5)
    assert torch.equal(found[f"{path}.self_attn"]["v_proj"], values)


def test_a_sample_of_all_is_the_oracle_over_sparse_tokens_in_attention(monkeypatch):
    model, inputs = with_lora(tiny_base()), batch(padding="none")
    sets = []
    # Where all tokens are sparse, those of the sample are all real ones.
    every = PLAN.updated({"mlp": {}, "tokens": "all", "dense_first": 0, "sample_tokens": 1000})
    for plan in (every, every.updated({"criterion": "oracle"})):
        with recorded(monkeypatch) as found, sparsify(model, plan) as handle:
            gradients(model, inputs)
            assert handle.tally.scored_tokens == 42
        sets.append(found)
    for path, indices in sets[0].items():
        for name, index in indices.items():
            assert torch.equal(index, sets[1][path][name]), (path, name)


def test_no_factors_are_made_and_nothing_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("gossamer.sparsity.predictor_cache.factorise", None)
    with sparsify(with_lora(tiny_base()), PLAN, cache=tmp_path / "cache", digest="b") as handle:
        assert handle.predictor_bytes == 0
    assert not (tmp_path / "cache").exists()


def test_rows_of_learnt_tokens_and_padding_alone_are_dense():
    model, inputs = with_lora(tiny_base()), batch(padding="right")
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    dense = gradients(model, inputs)
    plan = PLAN.updated({"border": "labels"})
    with sparsify(model, plan) as handle:
        assert_same(gradients(model, inputs), dense, 0)
        assert handle.work_kept == 1.0
