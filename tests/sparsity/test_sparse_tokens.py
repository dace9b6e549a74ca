"""Which tokens are sparse, and that dense ones are dense."""

import pytest
import torch
from sparse_case import ATTENTION, MLP, batch, tiny_base, with_lora

from gossamer.errors import TrainingError
from gossamer.sparsity import SparsityPlan, sparsify
from gossamer.sparsity.tokens import split_tokens

PLAN = SparsityPlan(mlp={"0-2": 0.5}, qk={"0-2": 0.5}, vo={"0-2": 0.5}, start=0)
I = -100  # noqa: E741


def dense_of(labels, mask=None, span="batch", tokens="context"):
    labels = torch.tensor(labels)
    mask = None if mask is None else torch.tensor(mask)
    split = split_tokens(labels, mask, shape=tuple(labels.shape), tokens=tokens, span=span)
    flat = torch.zeros(labels.numel(), dtype=torch.int)
    flat[split.dense] = 1
    assert sorted([*split.dense.tolist(), *split.sparse.tolist()]) == list(range(labels.numel()))
    return flat.view(labels.shape).tolist()


def test_one_span_for_the_batch_from_the_first_label_to_the_last():
    labels = [[I, I, I, 5, 6, I, I], [I, I, I, I, 7, 8, I]]
    assert dense_of(labels) == [[0, 0, 0, 1, 1, 1, 0]] * 2
    assert dense_of(labels, span="sample") == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0]]
    assert dense_of(labels, tokens="all") == [[0] * 7] * 2


def test_left_padding_is_dense_from_the_first_label_on():
    labels = [[I, I, I, 5, 6], [I, I, I, I, 6]]
    assert dense_of(labels, [[1] * 5, [0, 0, 1, 1, 1]]) == [[0, 0, 0, 1, 1]] * 2


def test_later_turns_lie_in_the_span():
    assert dense_of([[I, 5, I, I, 6, I]], span="sample") == [[0, 1, 1, 1, 1, 0]]


def test_rows_without_labels_are_context():
    assert dense_of([[I, I, I]]) == [[0, 0, 0]]


@pytest.mark.parametrize("span", ["batch", "sample"])
@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP], ids=len)
def test_output_tokens_are_dense_at_a_layer(targets, span):
    model = with_lora(tiny_base(), targets)
    inputs, layer = batch(), model.get_base_model().model.layers[1]
    plan = PLAN.updated({"span": span})
    x = torch.randn(*inputs["labels"].shape, 48, dtype=torch.float64)
    modules = [layer.mlp, *(getattr(layer.self_attn, name) for name in ATTENTION[:3])]
    dense = [module(x) for module in modules]
    split = split_tokens(inputs["labels"], None, shape=(3, 14), tokens="context", span=span)
    with sparsify(model, plan) as handle, handle.one_pass(inputs["labels"]):
        sparse = [modules[0](x)]
        # The projections choose their channels when the attention begins.
        for module in modules[1:]:
            seen = []
            hook = module.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
            positions = model.get_base_model().model.rotary_emb(x, torch.arange(14)[None])
            layer.self_attn(hidden_states=x, position_embeddings=positions, attention_mask=None)
            hook.remove()
            sparse += seen
    for one, other in zip(dense, sparse, strict=True):
        one, other = one.reshape(-1, one.shape[-1]), other.reshape(-1, one.shape[-1])
        torch.testing.assert_close(one[split.dense], other[split.dense], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(one[split.sparse], other[split.sparse])


def test_evaluation_and_generation_are_dense():
    model = with_lora(tiny_base())
    inputs = batch(padding="none")
    model.eval()
    expected = model(**inputs).logits
    words = model.generate(inputs["input_ids"], max_new_tokens=4, do_sample=False)
    with sparsify(model, PLAN) as handle:
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(
            model.generate(inputs["input_ids"], max_new_tokens=4, do_sample=False), words
        )
        model.train()
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, expected)
        assert not torch.allclose(model(**inputs).logits, expected)
        handle.enabled = False
        assert torch.equal(model(**inputs).logits, expected)


def test_training_without_labels_is_refused():
    model, inputs = with_lora(tiny_base()), batch()
    del inputs["labels"]
    with sparsify(model, PLAN), pytest.raises(TrainingError, match="no labels"):
        model(**inputs)
    with sparsify(model, PLAN.updated({"tokens": "all"})):
        model(**inputs).logits.sum().backward()


def test_packed_rows_are_refused():
    model, inputs = with_lora(tiny_base()), batch(padding="none")
    inputs["position_ids"] = torch.cat([torch.arange(7), torch.arange(7)]).expand(3, -1)
    with sparsify(model, PLAN), pytest.raises(TrainingError, match="packing=False"):
        model(**inputs)
    left = batch(padding="left")
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with sparsify(model, PLAN):
        model(**left).loss.backward()
