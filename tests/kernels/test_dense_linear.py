"""The packed base product: equal to the plain one, and rows that do not feel their neighbours."""

import pytest
import torch
from torch import nn

from gossamer.kernels.dense_linear import DenseLinear, reference

SHAPES = [(48, 64), (37, 19), (576, 192), (1, 1), (100, 48)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("h_in", "h_out"), SHAPES)
def test_packed_is_plain(h_in, h_out, bias):
    torch.manual_seed(0)
    layer = nn.Linear(h_in, h_out, bias=bias)
    dense = DenseLinear([layer], "cpu")
    with torch.inference_mode():
        for rows in (1, 2, 7, 33, 130):
            x = torch.randn(1, rows, h_in)
            want = layer.double()(x.double())
            assert (dense(x).double() - want).abs().max() < 1e-5
            layer.float()
            assert torch.allclose(
                dense(x), reference.linear(x, layer.weight, layer.bias), atol=1e-5
            )


def test_several_layers_side_by_side_some_with_bias():
    torch.manual_seed(1)
    layers = [nn.Linear(37, 19), nn.Linear(37, 5, bias=False), nn.Linear(37, 8)]
    dense = DenseLinear(layers, "cpu")
    x = torch.randn(1, 9, 37)
    with torch.inference_mode():
        parts = dense(x).split(dense.widths, dim=-1)
        for layer, part in zip(layers, parts, strict=True):
            assert torch.allclose(part, layer(x), atol=1e-5)


@pytest.mark.parametrize(("h_in", "h_out"), [*SHAPES, (1536, 64), (4100, 33)])
def test_a_row_is_the_same_bit_for_bit_among_any_number_of_rows(h_in, h_out):
    torch.manual_seed(2)
    dense = DenseLinear([nn.Linear(h_in, h_out)], "cpu")
    x = torch.randn(1, 70, h_in)
    with torch.inference_mode():
        alone = torch.cat([dense(x[:, t : t + 1]) for t in range(70)], dim=1)
        for rows in (2, 3, 8, 31, 32, 33, 64, 70):
            assert torch.equal(dense(x[:, :rows]), alone[:, :rows]), rows
        assert torch.equal(dense(x[:, 13:29]), alone[:, 13:29])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_rows_at_all(backend):
    """A step that only computes the middle of a prompt asks for no logits."""
    dense = DenseLinear([nn.Linear(8, 3)], backend)
    with torch.inference_mode():
        assert dense(torch.zeros(1, 0, 8)).shape == (1, 0, 3)


def test_the_weights_are_a_copy():
    """The model's own parameters may be dropped or changed afterwards."""
    layer = nn.Linear(16, 4)
    dense = DenseLinear([layer], "cpu")
    x = torch.randn(1, 2, 16)
    with torch.inference_mode():
        before = dense(x)
        with torch.no_grad():
            layer.weight.zero_()
        assert torch.equal(dense(x), before)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_copy_with_updates_leaves_the_layer_as_it_was(backend):
    torch.manual_seed(4)
    dense = DenseLinear([nn.Linear(37, 19), nn.Linear(37, 8)], backend)
    x, update = torch.randn(1, 5, 37), torch.randn(8, 37)
    with torch.no_grad():
        before = dense(x)
        lengths = dense.squared_lengths()
        other = dense.plus([(19, update)])
        want = before.clone()
        want[..., 19:] += x @ update.T
        assert torch.allclose(other(x), want, atol=1e-5)
        assert torch.equal(dense(x), before)
        assert torch.equal(other.squared_lengths()[:19], lengths[:19])
        assert not torch.equal(other.squared_lengths()[19:], lengths[19:])
