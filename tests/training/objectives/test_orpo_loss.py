"""ORPO's loss against its equation, and against TRL's own."""

import os

import pytest
import torch

from gossamer.training.objectives.orpo import log_odds, orpo_loss


@pytest.fixture
def answers():
    """Mean log-probabilities [pairs] of chosen and rejected answers, in float64."""
    generator = torch.Generator().manual_seed(0)
    return [-torch.rand(6, generator=generator, dtype=torch.float64) * 4 - 0.01 for _ in range(2)]


def test_it_is_the_equation(answers):
    chosen, rejected = (a.exp() for a in answers)
    ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    expected = 2.0 - 0.3 * torch.log(torch.sigmoid(torch.log(ratio))).mean()
    found = orpo_loss(*answers, torch.tensor(2.0, dtype=torch.float64), 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_trl_says_the_same(answers, monkeypatch):
    monkeypatch.setitem(os.environ, "TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta = 0.3
    trainer.accelerator = type("Accelerator", (), {"device": "cpu"})()
    losses = trainer.odds_ratio_loss(*answers)[0]
    found = orpo_loss(*answers, torch.tensor(2.0), 0.3)
    assert found.item() == pytest.approx(2 - losses.mean().item(), rel=1e-5)


def test_certain_and_impossible_answers_have_gradients():
    for values in ([0.0, -1.0], [-1e-12, -1.0], [-80.0, -1.0], [-1.0, -80.0]):
        pair = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        loss = orpo_loss(pair[:1], pair[1:], -pair[0], 0.1)
        loss.backward()
        assert loss.isfinite()
        assert pair.grad.isfinite().all()


def test_odds_in_half_precision_are_computed_in_single():
    short = torch.tensor([-0.001], dtype=torch.bfloat16)
    exact = log_odds(short.double()).item()
    assert log_odds(short).item() == pytest.approx(exact, rel=1e-4)
