"""SLoRA: the factors that a low-rank stage begins with."""

import pytest
import torch
from sparse_updates import dense, random_update
from torch import nn

from gossamer.methods.slora.prime import prime_factors


class TestPriming:
    """From the update to factors, as plain functions."""

    @pytest.mark.parametrize("scale", [0.5, 2.0])
    @pytest.mark.parametrize("shape", [(48, 64), (64, 48), (100, 48), (40, 40)])
    def test_the_error_is_the_tail(self, shape, scale):
        index, values = random_update(shape, 0.2)
        delta = dense(index, values, shape)
        singular = torch.linalg.svdvals(delta)
        for rank in (1, 8):
            primed = prime_factors(index, values, shape, rank=rank, scale=scale)
            error = (delta - scale * primed.b @ primed.a).norm().item()
            tail = singular[rank:].square().sum().sqrt().item()
            assert error == pytest.approx(tail, rel=1e-6)
            assert primed.retained == pytest.approx(
                (singular[:rank].square().sum() / singular.square().sum()).item(), rel=1e-9
            )

    @pytest.mark.parametrize("scale", [0.5, 2.0])
    @pytest.mark.parametrize("shape", [(48, 64), (64, 48)])
    def test_the_rows_of_a_are_as_long_as_where_lora_begins(self, shape, scale):
        index, values = random_update(shape, 0.2)
        primed = prime_factors(index, 1e-3 * values, shape, rank=8, scale=scale)
        start = nn.init.kaiming_uniform_(torch.empty(4096, shape[1]), a=5**0.5)
        assert start.square().sum(1).mean().item() == pytest.approx(1 / 3, rel=0.02)
        assert torch.allclose(primed.a @ primed.a.t(), torch.eye(8).double() / 3, atol=1e-12)
        singular = 1e-3 * torch.linalg.svdvals(dense(index, values, shape))[:8]
        lengths = primed.b.norm(dim=0)
        assert torch.allclose(lengths, singular * 3**0.5 / scale, rtol=1e-9)

    @pytest.mark.parametrize("scale", [0.5, 2.0])
    def test_balanced_factors_have_the_same_norm_and_the_same_product(self, scale):
        shape = (48, 64)
        index, values = random_update(shape, 0.2)
        asked = {"rank": 8, "scale": scale}
        balanced = prime_factors(index, values, shape, split="balanced", **asked)
        balance = torch.diag(torch.linalg.svdvals(dense(index, values, shape))[:8] / scale)
        assert torch.allclose(balanced.b.t() @ balanced.b, balance, atol=1e-9)
        assert torch.allclose(balanced.a @ balanced.a.t(), balance, atol=1e-9)
        like_lora = prime_factors(index, values, shape, **asked)
        assert torch.allclose(balanced.b @ balanced.a, like_lora.b @ like_lora.a, atol=1e-12)

    def test_at_full_rank_nothing_is_lost(self):
        # Five columns hold entries: the update has rank 5.
        index = torch.tensor([[i for i in range(30) for _ in range(5)], [3, 8, 11, 20, 39] * 30])
        values = torch.randn(150, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        primed = prime_factors(index, values, (30, 40), rank=8, scale=2.0)
        assert len(primed.a) == 5, "components that hold nothing are left to LoRA's start"
        delta = dense(index, values, (30, 40))
        assert torch.allclose(2 * primed.b @ primed.a, delta, rtol=1e-5, atol=1e-10)
        assert primed.retained == pytest.approx(1)

    def test_an_update_of_nothing_primes_nothing(self):
        index, values = random_update((30, 40), 0.1)
        primed = prime_factors(index, 0 * values, (30, 40), rank=4, scale=2.0)
        assert (len(primed.a), primed.retained) == (0, 0)

    def test_noise_keeps_a_twentieth_of_its_energy(self):
        index, values = random_update((768, 768), 0.01)
        primed = prime_factors(index, values, (768, 768), rank=8, scale=2.0)
        assert primed.retained == pytest.approx(0.05, abs=0.01)
        wide = prime_factors(index, values, (768, 768), rank=64, scale=2.0)
        assert wide.retained == pytest.approx(0.32, abs=0.03)
