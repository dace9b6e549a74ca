"""What four-bit bases must satisfy: bitsandbytes against NF4's definition, and training on it."""

import pytest
import torch
from method_helpers import base_folder, base_model, build, gradients, logits
from torch.distributions import Normal

bnb = pytest.importorskip("bitsandbytes.functional")

NEGATIVE = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500]
POSITIVE = [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
LEVELS = torch.tensor([*NEGATIVE, 0.0, *POSITIVE])
BLOCK = 64


def quantize(weights, *, double=False):
    """(packed codes, state) of NF4 in blocks of 64."""
    return bnb.quantize_4bit(weights, blocksize=BLOCK, quant_type="nf4", compress_statistics=double)


def normal(count):
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def test_the_levels_and_how_they_come_about():
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    quantiles = Normal(0.0, 1.0).icdf
    positive = quantiles(torch.linspace(offset, 0.5, 9))[:-1]
    negative = -quantiles(torch.linspace(offset, 0.5, 8))[:-1]
    made = torch.cat([positive, torch.zeros(1), negative]).sort().values
    assert torch.allclose(made / made.max(), LEVELS, atol=1e-6)
    assert torch.allclose(bnb.get_4bit_type("nf4", device="cpu"), LEVELS, atol=1e-6)
    weights = normal(BLOCK)
    weights[3] = 0.0
    back = bnb.dequantize_4bit(*quantize(weights)).flatten()
    largest = weights.abs().argmax()
    assert back[3] == 0
    assert back[largest] == weights[largest]


def test_how_wrong_a_weight_can_be():
    weights = normal(2**18)
    back = bnb.dequantize_4bit(*quantize(weights))
    scale = weights.reshape(-1, BLOCK).abs().amax(dim=1, keepdim=True)
    error = (weights - back).reshape(-1, BLOCK)
    assert (error.abs() <= 0.15191 * scale).all()
    assert error.square().mean().sqrt() == pytest.approx(0.092, abs=0.001)
    whole = (weights.reshape(-1, BLOCK) / scale * 7).round() / 7 * scale
    assert (whole.flatten() - weights).square().mean().sqrt() == pytest.approx(0.108, abs=0.001)
    nearest = LEVELS[(weights.reshape(-1, BLOCK, 1) / scale[..., None] - LEVELS).abs().argmin(-1)]
    assert torch.allclose(nearest * scale, back.reshape(-1, BLOCK), atol=1e-5)


def test_a_weight_takes_as_many_bits_as_the_paper_says():
    count = 4 * 16_384
    codes, state = quantize(normal(count), double=True)
    sizes = [t.numel() * t.element_size() for t in (codes, state.absmax, state.state2.absmax)]
    assert sizes == [count // 2, count // 64, 4 * count // 16_384]
    assert 8 * sum(sizes) / count == pytest.approx(4.127, abs=1e-3)


def test_double_quantisation_stores_the_scales_in_8_bits():
    """The block constants: their mean taken off, then eight bits in blocks of 256."""
    weights = normal(2 * 16_384)
    _, plain = quantize(weights)
    _, state = quantize(weights, double=True)
    assert state.offset == pytest.approx(plain.absmax.mean().item())
    centred = state.state2.code[state.absmax.long()].reshape(-1, 256)
    again = (centred * state.state2.absmax[:, None]).flatten() + state.offset
    largest = (plain.absmax - state.offset).reshape(-1, 256).abs().amax(dim=1)
    assert torch.allclose(state.state2.absmax, largest)
    assert (again - plain.absmax).abs().max() < 0.02 * largest.max()


def test_the_four_bits_stay():
    _, model, _ = build("qlora")
    packed = {n: p for n, p in model.named_parameters() if type(p).__name__ == "Params4bit"}
    before = {n: p.detach().clone() for n, p in packed.items()}
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.05)
    for _ in range(3):
        found = gradients(model)
        optimizer.step()
    assert len(packed) == 21
    assert all("lora_" in name for name in found)
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in packed.items())


@pytest.mark.parametrize("double", [False, True])
def test_starts_as_the_dequantised_base(double):
    _, model, _ = build("qlora", double_quant=double)
    rounded = base_model(base_folder("llama"))
    with torch.no_grad():
        for path, module in rounded.named_modules():
            if isinstance(module, torch.nn.Linear) and path != "lm_head":
                module.weight.copy_(
                    bnb.dequantize_4bit(*quantize(module.weight.data, double=double))
                )
    start = logits(model)
    assert torch.allclose(start, logits(rounded), atol=1e-5)
    assert not torch.allclose(start, logits(base_model(base_folder("llama"))), atol=1e-2)


def test_rounding_twice_is_rounding_once():
    codes, state = quantize(normal(2**14))
    again, _ = quantize(bnb.dequantize_4bit(codes, state))
    assert torch.equal(again, codes)
