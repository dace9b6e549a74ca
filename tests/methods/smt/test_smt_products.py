"""The arithmetic of SMT: exact outputs and gradients, and only what is needed is kept."""

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn

from gossamer.methods.smt.autograd import add_blocks, block_linear, make_plan
from gossamer.methods.smt.blocks import Block, cut
from gossamer.methods.smt.model import SmtConfig

# out != in, edges that no block size divides, blocks that share rows and columns.
SHAPE = (10, 14)
BLOCKS = [Block(0, 4, 4, 4), Block(4, 0, 4, 4), Block(4, 4, 4, 4), Block(0, 12, 4, 2)]
BLOCKS += [Block(8, 12, 2, 2)]
SIZE = sum(b.size for b in BLOCKS)


def case(*, dtype=torch.float64, tokens=(3, 5), scale=0.3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*tokens, SHAPE[1], dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(SHAPE, dtype=dtype, generator=generator)
    bias = torch.randn(SHAPE[0], dtype=dtype, generator=generator)
    values = scale * torch.randn(SIZE, dtype=dtype, generator=generator)
    g = torch.randn(*tokens, SHAPE[0], dtype=dtype, generator=generator)
    return x, weight, bias, values.requires_grad_(), g


def dense_delta(values, blocks=BLOCKS):
    """The blocks as a whole matrix, by plain indexing."""
    delta = values.new_zeros(SHAPE)
    offset = 0
    for i, j, h, w in blocks:
        delta[i : i + h, j : j + w] = values[offset : offset + h * w].view(h, w)
        offset += h * w
    return delta


def taken(matrix, blocks=BLOCKS):
    return torch.cat([matrix[i : i + h, j : j + w].reshape(-1) for i, j, h, w in blocks])


def by_products(x, weight, bias, values):
    return block_linear(x, weight, bias, values, make_plan(BLOCKS))


def on_any_base(x, weight, bias, values):
    return add_blocks(F.linear(x, weight, bias), x, values, make_plan(BLOCKS))


PATHS = pytest.mark.parametrize("path", [by_products, on_any_base])


@PATHS
def test_starts_as_the_base_with_the_dense_input_gradient(path):
    x, weight, bias, values, g = case(scale=0.0)
    out = path(x, weight, bias, values)
    assert torch.equal(out, F.linear(x, weight, bias))
    out.backward(g)
    assert torch.allclose(x.grad, g @ weight, atol=1e-12, rtol=0)


@PATHS
@pytest.mark.parametrize("tokens", [(3, 5), (1,), (7,), (2, 1, 3)])
def test_outputs_and_gradients_are_those_of_the_dense_layer(path, tokens):
    x, weight, bias, values, g = case(tokens=tokens)
    out = path(x, weight, bias, values)
    out.backward(g)
    twin = x.detach().clone().requires_grad_()
    dense = (weight + dense_delta(values.detach())).requires_grad_()
    expected = F.linear(twin, dense, bias)
    expected.backward(g)
    assert torch.allclose(out, expected, atol=1e-12, rtol=0)
    assert torch.allclose(x.grad, twin.grad, atol=1e-12, rtol=0)
    assert torch.allclose(values.grad, taken(dense.grad), atol=1e-12, rtol=0)


def test_autograd_agrees_with_finite_differences():
    x, weight, bias, values, _ = case()
    for path in (by_products, on_any_base):
        torch.autograd.gradcheck(lambda x, v, path=path: path(x, weight, bias, v), (x, values))


@PATHS
def test_block_gradients_and_their_sum_over_micro_batches(path):
    x, weight, bias, values, g = case()
    path(x, weight, bias, values).backward(g)
    joint = values.grad.clone()
    rows, out = x.detach().flatten(0, -2), g.flatten(0, -2)
    assert torch.allclose(joint, taken(out.T @ rows), atol=1e-12, rtol=0)
    values.grad = None
    for part in range(x.shape[0]):
        path(x[part], weight, bias, values).backward(g[part])
    assert torch.allclose(values.grad, joint, atol=1e-12, rtol=0)


class TwoLayers(nn.Module):
    """As much of a model as PEFT asks for."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.config = {"model_type": "two-layers"}
        self.one = nn.Linear(14, 10, bias=True, dtype=dtype)
        self.two = nn.Linear(10, 6, bias=False, dtype=dtype)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def adapted(blocks, **options):
    return get_peft_model(TwoLayers(), SmtConfig(blocks=blocks), **options)


def train(model, parameters, steps, **options):
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(9, 14, dtype=torch.float64, generator=generator)
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_frozen_entries_stay_bit_identical():
    before = TwoLayers().state_dict()
    model = adapted({"one": BLOCKS})
    learning = [p for p in model.parameters() if p.requires_grad]
    train(model, learning, 5, weight_decay=0.1)
    layer = model.base_model.model.one
    assert torch.equal(layer.base_layer.weight, before["one.weight"])
    assert torch.equal(layer.base_layer.bias, before["one.bias"])
    merged = model.merge_and_unload().state_dict()
    moved = merged["one.weight"] != before["one.weight"]
    chosen = dense_delta(torch.ones(SIZE)).bool()
    assert torch.equal(moved, chosen)
    assert torch.equal(merged["two.weight"], before["two.weight"])


def test_all_blocks_train_as_the_dense_matrices():
    blocks = {"one": cut((10, 14), 4), "two": cut((6, 10), 4)}
    model = adapted(blocks, autocast_adapter_dtype=False)
    train(model, [p for p in model.parameters() if p.requires_grad], 10, weight_decay=0.0)
    dense = TwoLayers()
    dense.one.bias.requires_grad_(False)
    train(dense, [dense.one.weight, dense.two.weight], 10, weight_decay=0.0)
    merged = model.merge_and_unload()
    for name in ("one", "two"):
        trained, reference = merged.get_submodule(name).weight, dense.get_submodule(name).weight
        assert torch.allclose(trained, reference, atol=1e-10, rtol=0)


def test_counts_of_weights_states_and_kept_columns():
    layer = nn.Linear(256 * 4, 256 * 3, bias=False)
    layer.requires_grad_(False)
    blocks = [Block(0, 256, 256, 256), Block(512, 256, 256, 256), Block(256, 768, 256, 256)]
    values = nn.Parameter(torch.zeros(3 * 65536))
    optimizer = torch.optim.AdamW([values], lr=1e-3)
    tokens, kept = 7, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Not a leaf: then x would be kept by its owner and tell nothing.
    x = torch.randn(tokens, 1024, requires_grad=True) * 1.0
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = block_linear(x, layer.weight, None, values, make_plan(blocks))
    for owned in (layer.weight, values):
        del kept[owned.untyped_storage().data_ptr()]
    # Two of the three blocks read the same columns.
    assert sum(kept.values()) == tokens * 4 * 256 * 2
    assert x.untyped_storage().data_ptr() not in kept
    out.sum().backward()
    optimizer.step()
    states = [t for t in optimizer.state[values].values() if t.numel() > 1]
    assert values.numel() == 3 * 65536
    assert sum(t.numel() for t in states) == 2 * 3 * 65536


def test_a_single_range_of_columns_is_copied_too():
    x = torch.randn(7, 64)
    kept = make_plan([Block(0, 16, 16, 16)]).keep(x)
    assert kept.untyped_storage().nbytes() == 7 * 16 * 4


def test_inputs_that_need_no_gradient_get_none():
    x, weight, bias, values, g = case()
    out = by_products(x.detach(), weight, bias, values)
    out.backward(g)
    assert values.grad is not None
    with torch.no_grad():
        assert not by_products(x, weight, bias, values).requires_grad


def test_half_precision_follows_the_base_and_the_values_keep_theirs():
    x, weight, bias, values, g = (t.detach().bfloat16() for t in case())
    values = values.float().requires_grad_()
    for path in (by_products, on_any_base):
        values.grad = None
        out = path(x, weight, bias, values)
        assert out.dtype == torch.bfloat16
        out.backward(g)
        assert values.grad.dtype == torch.float32
        exact = taken(g.flatten(0, -2).float().T @ x.flatten(0, -2).float())
        assert torch.allclose(values.grad, exact, atol=0.05, rtol=0.02)
