"""What stands in for channels that are left out."""

import pytest
import torch
from sparse_case import ATTENTION, MLP, batch, gradients, recorded, tiny_base, with_lora

from gossamer.errors import SettingError
from gossamer.sparsity import SparsityPlan, load_plan, sparsify
from gossamer.sparsity.compensation import RIDGE, linear_compensation, mean_compensation
from gossamer.sparsity.tokens import split_tokens

PLAN = SparsityPlan(mlp={"0-2": 0.6}, start=0, sample_tokens=6)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("tokens", "width"), [(5, 8), (20, 8)])
def test_linear_is_the_ridge_regression_on_the_sample(tokens, width):
    x = drawn(tokens, width) + 2
    y = x @ drawn(width, width) + 0.1 * drawn(tokens, width) - 1
    found = linear_compensation(x, y)
    centred, aim = x - x.mean(0), y - y.mean(0)
    # The primal form of what is solved in its dual.
    penalty = RIDGE * x.pow(2).sum(1).mean()
    gram = centred.t() @ centred + penalty * torch.eye(width, dtype=x.dtype)
    weights = torch.linalg.solve(gram, centred.t() @ aim)
    other = drawn(7, width)
    expected = y.mean(0) + (other - x.mean(0)) @ weights
    added = found.offset + (other @ found.inputs.t()) @ found.outputs
    assert torch.allclose(added, expected, atol=1e-12)


def test_inputs_that_do_not_differ_tell_the_mean_alone():
    y, other = drawn(4, 8), 10 * drawn(5, 8)
    for x in (torch.zeros(4, 8, dtype=y.dtype), drawn(1, 8).expand(4, 8)):
        for aim in (y, y[:1]):
            found = linear_compensation(x[: len(aim)], aim)
            added = found.offset + (other @ found.inputs.t()) @ found.outputs
            assert torch.allclose(added, aim.mean(0).expand(5, -1), atol=1e-9)
    assert torch.equal(mean_compensation(y).offset, y.mean(0))


@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP], ids=len)
def test_it_brings_the_loss_and_the_gradients_nearer_to_the_dense_ones(targets):
    model, inputs = with_lora(tiny_base(), targets), batch()
    dense = gradients(model, inputs)
    far = []
    for compensation in ("none", "linear"):
        with sparsify(model, PLAN.updated({"compensation": compensation, "sample_tokens": 64})):
            _, logits, grads = gradients(model, inputs)
        read = inputs["labels"][:, 1:] != -100
        error = (logits - dense[1])[:, :-1][read].norm()
        slope = sum((grads[name] - grad).norm() for name, grad in dense[2].items())
        far.append((error, slope))
    assert far[1][0] < 0.95 * far[0][0]
    assert far[1][1] < far[0][1]


def test_only_sparse_tokens_get_it(monkeypatch):
    model, inputs = with_lora(tiny_base()), batch(padding="none")
    split = split_tokens(PLAN, inputs["labels"], inputs["attention_mask"], shape=(3, 14))
    outputs = []
    layer = model.get_base_model().model.layers[0].mlp
    layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    with recorded(monkeypatch) as chosen, sparsify(model, PLAN):
        # Called after the hook above, which sees what channels alone give.
        seen = layer.register_forward_hook(lambda m, a, out: outputs.append(out.detach()))
        gradients(model, inputs)
        seen.remove()
    plain, compensated = (each.reshape(42, -1) for each in outputs)
    assert torch.equal(compensated[split.dense], plain[split.dense])
    assert not torch.isclose(compensated[split.sparse], plain[split.sparse]).any()
    assert chosen.compensations["base_model.model.model.layers.0.mlp"].inputs.shape == (6, 48)


def test_plans_say_it_where_they_sample_alone():
    assert PLAN.compensating == "linear"
    assert load_plan("llama3-8b-math10k").compensating == "none"
    assert SparsityPlan(criterion="svd").compensating == "none"
    with pytest.raises(SettingError, match="criterion: sample, or compensation: none"):
        SparsityPlan.parse({"criterion": "svd", "compensation": "linear"})
    assert "compensation" not in PLAN.as_yaml()
    assert "compensation: mean" in PLAN.updated({"compensation": "mean"}).as_yaml()
