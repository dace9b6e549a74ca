"""Products at entries against the dense matrices they stand for."""

import pytest
import torch
from entry_case import probe_batches
from torch.nn.functional import linear

from gossamer.basemodel.load import load_model
from gossamer.errors import AdapterFormatError, DataError
from gossamer.methods.common.sparse_delta.mask import as_index, num_entries, random_entries
from gossamer.methods.common.sparse_delta.probe import largest_entries
from gossamer.methods.common.sparse_delta.product import Pattern, entry_linear, sampled_low_rank

SHAPES = [(64, 48), (48, 100), (1, 7), (7, 1), (33, 33)]


def case(shape, density):
    torch.manual_seed(0)
    index = random_entries(0, "m", shape, density)
    pattern = Pattern(index, shape)
    mask = torch.zeros(shape, dtype=torch.float64)
    mask[index[0].long(), index[1].long()] = 1
    return pattern, mask, index


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_and_its_gradients_equal_the_dense_ones(shape, density):
    pattern, mask, index = case(shape, density)
    values = torch.randn(index.shape[1], dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, shape[1], dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 5, shape[0], dtype=torch.float64)
    (entry_linear(x, values, pattern) * target).sum().backward()
    dense = torch.zeros_like(mask)
    dense[index[0].long(), index[1].long()] = values.detach()
    dense.requires_grad_(True)
    again = x.detach().clone().requires_grad_(True)
    expected = linear(again, dense)
    (expected * target).sum().backward()
    assert torch.allclose(entry_linear(x, values, pattern), expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(x.grad, again.grad, rtol=1e-12, atol=1e-12)
    at_entries = dense.grad[index[0].long(), index[1].long()]
    assert torch.allclose(values.grad, at_entries, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_masked_low_rank_product_and_its_gradients_equal_the_dense_ones(shape, density):
    pattern, mask, _ = case(shape, density)
    a = torch.randn(3, shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.randn(shape[0], 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, shape[1], dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, shape[0], dtype=torch.float64)
    out = entry_linear(x, 1.7 * sampled_low_rank(a, b, pattern), pattern)
    fast = torch.autograd.grad((out * target).sum(), (x, a, b))
    dense = linear(x, mask * (1.7 * b @ a))
    slow = torch.autograd.grad((dense * target).sum(), (x, a, b))
    assert torch.allclose(out, dense, rtol=1e-12, atol=1e-12)
    for one, two in zip(fast, slow, strict=True):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-12)


def test_nothing_of_the_size_of_the_matrix_is_kept_for_the_backward_pass():
    shape = (256, 256)
    pattern, _, index = case(shape, 0.01)
    x = torch.randn(4, 256, requires_grad=True)
    a = torch.randn(2, 256, requires_grad=True)
    b = torch.randn(256, 2, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        entry_linear(x, sampled_low_rank(a, b, pattern), pattern)
    assert kept
    assert max(tensor.untyped_storage().nbytes() // 4 for tensor in kept) <= max(
        x.numel(), a.numel(), index.shape[1]
    )


def test_half_precision_inputs_are_computed_in_the_type_of_the_values():
    pattern, _, index = case((64, 48), 0.1)
    values = torch.randn(index.shape[1])
    x = torch.randn(3, 48).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = entry_linear(x, values, pattern)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, entry_linear(x.float(), values, pattern).bfloat16())


@pytest.mark.parametrize(
    "index", [[[0, 0], [1, 1]], [[1, 0], [0, 0]], [[0, 2], [0, 0]], [[-1, 0], [0, 0]], [[0], [3]]]
)
def test_places_that_make_no_sense_are_refused(index):
    with pytest.raises(AdapterFormatError, match="2 x 3 matrix are not sorted row by row, or lie"):
        Pattern(torch.tensor(index, dtype=torch.int32), (2, 3))


class TestProbe:
    """The entries with the largest gradients."""

    def chosen(self, folder, **options):
        model = load_model(folder, dtype=torch.float32)
        layers = {
            path: module
            for path, module in model.named_modules()
            if path.endswith(("q_proj", "down_proj"))
        }
        found = largest_entries(model, layers, lambda: probe_batches(3), density=0.05, **options)
        assert not any(p.grad is not None for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())
        return model, layers, found

    def test_they_are_those_of_the_dense_gradient(self, tiny_model):
        model, layers, found = self.chosen(tiny_model)
        model.requires_grad_(True)
        for batch in probe_batches(3):
            model(**batch).loss.backward()
        for path, layer in layers.items():
            size = layer.weight.grad.abs().flatten()
            top = size.topk(num_entries(tuple(layer.weight.shape), 0.05)).indices.sort().values
            assert torch.equal(found[path], as_index(top, tuple(layer.weight.shape)))

    def test_a_smaller_budget_takes_more_passes_and_finds_the_same(self, tiny_model):
        _, _, whole = self.chosen(tiny_model)
        passes = []
        model = load_model(tiny_model, dtype=torch.float32)
        layers = {p: m for p, m in model.named_modules() if p.endswith(("q_proj", "down_proj"))}

        def batches():
            passes.append(1)
            return probe_batches(3)

        found = largest_entries(model, layers, batches, density=0.05, budget=40_000)
        assert len(passes) == 3
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[path], whole[path]) for path in whole)

    def test_checkpointing_computes_blocks_again_and_finds_the_same(self, tiny_model):
        _, _, whole = self.chosen(tiny_model)
        model = load_model(tiny_model, dtype=torch.float32).eval()
        layers = {p: m for p, m in model.named_modules() if p.endswith(("q_proj", "down_proj"))}
        passes = []
        watch = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
        found = largest_entries(
            model, layers, lambda: probe_batches(3), density=0.05, checkpointing=True
        )
        watch.remove()
        assert len(passes) == 6
        assert all(torch.equal(found[path], whole[path]) for path in whole)
        assert not model.training
        assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())

    def test_without_rows_there_is_nothing_to_choose_by(self, tiny_model):
        model = load_model(tiny_model, dtype=torch.float32)
        layers = {"head": model.model.layers[0].mlp.up_proj}
        with pytest.raises(DataError, match="no training rows"):
            largest_entries(model, layers, list, density=0.05)
