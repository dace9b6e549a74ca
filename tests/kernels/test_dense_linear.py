"""The packed base product: equal to the plain one, and rows that do not feel their neighbours."""

import copy
import os

import pytest
import torch
from torch import nn

from gossamer.kernels.dense_linear import DenseLinear, make_dense_linear, reference
from gossamer.kernels.dense_linear.cpu import PROGRAMS, PROGRAMS_VARIABLE, keep_programs_for
from gossamer.kernels.dense_linear.quantized import whole_weight

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


WAYS = ["nf4", "nf4-single", "fp4", "8bit", "int8"]


def quantized(layer, way):
    """`layer` with its weights as `way` says; skips where the library is not installed."""
    if way == "int8":
        torchao = pytest.importorskip("torchao.quantization", reason="needs torchao")
        made = nn.Sequential(copy.deepcopy(layer))
        torchao.quantize_(made, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
        return made[0]
    bnb = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    sizes = (layer.in_features, layer.out_features, layer.bias is not None)
    if way == "8bit":
        made = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
    else:
        made = bnb.nn.Linear4bit(
            *sizes, torch.float32, compress_statistics=way == "nf4", quant_type=way[:3]
        )
        made.support_avx512bf16_for_cpu = False
    made.load_state_dict(layer.state_dict())
    return made.to("cpu")


def whole(layer):
    """A plain layer of the weights that a quantised one stands for."""
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    plain.weight = nn.Parameter(whole_weight(layer, torch.float32))
    plain.bias = layer.bias
    return plain


@pytest.mark.parametrize("way", WAYS)
def test_whole_weights_are_those_that_the_library_multiplies_by(way):
    torch.manual_seed(5)
    layer = nn.Linear(100, 48)
    made = quantized(layer, way)
    weight = whole_weight(made, torch.float32)
    assert 0 < (weight - layer.weight).abs().max() < (0.03 if "4" in way else 0.002)
    with torch.inference_mode():
        # Rows of 100 numbers of which one is 1: each is its own largest, so that 8 bits hold it.
        columns = made(torch.eye(100)) - layer.bias
    assert torch.allclose(columns.T, weight, atol=1e-4 if way == "8bit" else 1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_quantised_siblings_are_multiplied_as_their_whole_weights_bit_for_bit(way, backend):
    """Also beside a layer that was left whole, and where some have a bias."""
    torch.manual_seed(6)
    layers = [quantized(nn.Linear(100, 48), way), nn.Linear(100, 33, bias=False)]
    layers.append(quantized(nn.Linear(100, 20, bias=False), way))
    dense = make_dense_linear(layers, backend)
    plain = DenseLinear([whole(layer) for layer in layers], backend)
    assert dense.widths == [48, 33, 20]
    with torch.inference_mode():
        for rows in (0, 1, 2, 33):
            x = torch.randn(1, rows, 100)
            assert torch.equal(dense(x), plain(x)), rows
    assert torch.equal(dense.squared_lengths(), plain.squared_lengths())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("h_in", "h_out"), [(576, 48), (1536, 33)])
def test_a_row_of_a_quantised_product_does_not_feel_its_neighbours(way, h_in, h_out):
    torch.manual_seed(7)
    dense = make_dense_linear([quantized(nn.Linear(h_in, h_out), way)], "cpu")
    x = torch.randn(1, 40, h_in)
    # An outlier of one row, for which LLM.int8 would compute a column of all rows apart.
    x[0, 5, 3] = 60.0
    with torch.inference_mode():
        alone = torch.cat([dense(x[:, t : t + 1]) for t in range(40)], dim=1)
        for rows in (2, 3, 8, 33, 40):
            assert torch.equal(dense(x[:, :rows]), alone[:, :rows]), rows


@pytest.mark.parametrize("way", ["nf4", "int8"])
def test_off_the_processor_each_layer_multiplies_into_its_part(way):
    torch.manual_seed(8)
    layers = [quantized(nn.Linear(64, 48), way), quantized(nn.Linear(64, 20, bias=False), way)]
    x = torch.randn(1, 7, 64)
    with torch.inference_mode():
        got = make_dense_linear(layers, "triton")(x)
        assert torch.equal(got, torch.cat([layer(x) for layer in layers], dim=-1))


def test_quantised_weights_are_not_merged():
    dense = make_dense_linear([quantized(nn.Linear(64, 48), "nf4")], "cpu")
    with pytest.raises(TypeError, match="quantised"):
        dense.plus([(0, torch.ones(48, 64))])


def test_models_of_many_shapes_keep_more_programs(monkeypatch):
    monkeypatch.setenv(PROGRAMS_VARIABLE, str(PROGRAMS))
    keep_programs_for(PROGRAMS // 4)
    assert os.environ[PROGRAMS_VARIABLE] == str(PROGRAMS)
    keep_programs_for(PROGRAMS)
    assert os.environ[PROGRAMS_VARIABLE] == str(4 * PROGRAMS)
    monkeypatch.setenv(PROGRAMS_VARIABLE, "7")
    keep_programs_for(PROGRAMS)
    assert os.environ[PROGRAMS_VARIABLE] == "7"
