"""Which tokens are sparse, and that dense ones are dense."""

import pytest
import torch
from sparse_case import ATTENTION, MLP, batch, tiny_base, with_lora

from gossamer.errors import TrainingError
from gossamer.sparsity import SparsityPlan, sparsify
from gossamer.sparsity.tokens import evenly_spaced, split_tokens

PLAN = SparsityPlan(mlp={"0-2": 0.5}, qk={"0-2": 0.5}, vo={"0-2": 0.5}, start=0)
I = -100  # noqa: E741


RELEASED = {"border": "labels", "dense_first": 0}


def split_of(labels, mask=None, **plan):
    labels = torch.tensor(labels)
    mask = None if mask is None else torch.tensor(mask)
    return split_tokens(SparsityPlan(**plan), labels, mask, shape=tuple(labels.shape))


def dense_of(labels, mask=None, **plan):
    labels, split = torch.tensor(labels), split_of(labels, mask, **plan)
    flat = torch.zeros(labels.numel(), dtype=torch.int)
    flat[split.dense] = 1
    assert sorted([*split.dense.tolist(), *split.sparse.tolist()]) == list(range(labels.numel()))
    return flat.view(labels.shape).tolist()


def test_one_span_for_the_batch_from_the_first_label_to_the_last():
    labels = [[I, I, I, 5, 6, I, I], [I, I, I, I, 7, 8, I]]
    assert dense_of(labels, **RELEASED) == [[0, 0, 0, 1, 1, 1, 0]] * 2
    each = {"span": "sample", **RELEASED}
    assert dense_of(labels, **each) == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0]]
    assert dense_of(labels, tokens="all", **RELEASED) == [[0] * 7] * 2


def test_the_span_begins_with_the_token_that_predicts_the_first_label():
    labels = [[I, I, I, 5, 6, I, I], [I, I, I, I, 7, 8, I]]
    assert dense_of(labels, dense_first=0) == [[0, 0, 1, 1, 1, 0, 0]] * 2
    each = {"span": "sample", "dense_first": 0}
    assert dense_of(labels, **each) == [[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0]]
    # The loss reads no output for a label of the first token.
    assert dense_of([[4, I, I, I], [I, I, I, I]], **each) == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize("span", ["batch", "sample"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_dense_are_just_the_tokens_whose_outputs_the_loss_reads(span, padding):
    inputs, model = batch(padding=padding), tiny_base()
    logits = model(**{**inputs, "labels": None}).logits.detach().requires_grad_()
    model.loss_function(logits, inputs["labels"], vocab_size=model.config.vocab_size).backward()
    read = logits.grad.abs().sum(-1) > 0
    plan = SparsityPlan(span=span, dense_first=0)
    split = split_tokens(plan, inputs["labels"], inputs["attention_mask"], shape=read.shape)
    dense = torch.zeros(read.numel(), dtype=torch.bool)
    dense[split.dense] = True
    dense = dense.view(read.shape)
    # With one span for the batch, real tokens in the span of another row are dense as well.
    span_of_all = read.any(0, keepdim=True) & inputs["attention_mask"].bool()
    assert torch.equal(dense, read if span == "sample" else span_of_all)


@pytest.mark.parametrize("tokens", ["context", "all"])
def test_the_first_real_tokens_of_each_row_are_dense(tokens):
    labels, mask = [[I] * 6] * 3, [[1] * 6, [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    assert dense_of(labels, mask, tokens=tokens) == [
        [1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]
    two = dense_of(labels, mask, tokens=tokens, dense_first=2)
    assert two[1] == [0, 0, 1, 1, 0, 0]
    assert dense_of(labels, mask, tokens=tokens, dense_first=0) == [[0] * 6] * 3


def test_padding_is_never_dense():
    labels, mask = [[I, I, 5, 6, 7], [I, 5, I, I, I]], [[1] * 5, [1, 1, 0, 0, 0]]
    assert dense_of(labels, mask) == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize(("count", "chosen"), [(2, [2, 7]), (3, [1, 4, 8]), (10, list(range(10)))])
def test_a_sample_is_evenly_spaced(count, chosen):
    found = evenly_spaced(torch.ones(1, 10, dtype=torch.bool), count)
    assert found.nonzero()[:, 1].tolist() == chosen
    assert evenly_spaced(torch.ones(1, 10, dtype=torch.bool), count + 20).all()


def test_a_sample_is_taken_of_sparse_tokens_outside_padding():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        candidates = torch.rand(4, 30, generator=generator) < 0.5
        found = evenly_spaced(candidates, 5)
        assert not (found & ~candidates).any()
        assert torch.equal(found.sum(1), candidates.sum(1).clamp(max=5))
    labels = [[I, I, I, I, I, 5, 6]] * 2
    mask = [[1] * 7, [0, 0, 0, 1, 1, 1, 1]]
    whole = split_of(labels, mask, sample_tokens=100).sampled.tolist()
    # The last token of each row is sparse too, but nobody reads what comes of it. And the second
    # row begins with the span.
    assert whole == [1, 2, 3]
    of_batch = split_of(labels, mask, sample_tokens=2).sampled
    of_rows = split_of([[I] * 6 + [5]] * 2, None, sample_tokens=2, sample_of="row").sampled
    assert len(of_batch) == 2
    assert of_rows.tolist() == [1, 3, 8, 10]
    assert not split_of(labels, mask, criterion="svd").sampled.numel()


def test_left_padding_is_dense_from_the_first_label_on():
    labels = [[I, I, I, 5, 6], [I, I, I, I, 6]]
    assert dense_of(labels, [[1] * 5, [0, 0, 1, 1, 1]], **RELEASED) == [[0, 0, 0, 1, 1]] * 2


def test_later_turns_lie_in_the_span():
    assert dense_of([[I, 5, I, I, 6, I]], span="sample", **RELEASED) == [[0, 1, 1, 1, 1, 0]]
    assert dense_of([[I, I, 5, I, I, 6, I]], span="sample") == [[1, 1, 1, 1, 1, 0, 0]]


def test_rows_without_labels_are_context():
    assert dense_of([[I, I, I]]) == [[1, 0, 0]]


@pytest.mark.parametrize("span", ["batch", "sample"])
@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP], ids=len)
def test_output_tokens_are_dense_at_a_layer(targets, span):
    model = with_lora(tiny_base(), targets)
    inputs, layer = batch(), model.get_base_model().model.layers[1]
    plan = PLAN.updated({"span": span})
    x = torch.randn(*inputs["labels"].shape, 48, dtype=torch.float64)
    modules = [layer.mlp, *(getattr(layer.self_attn, name) for name in ATTENTION[:3])]
    dense = [module(x) for module in modules]
    split = split_tokens(plan, inputs["labels"], None, shape=(3, 14))
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
