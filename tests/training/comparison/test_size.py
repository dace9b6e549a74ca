"""The size of every method that has one, fitted to a budget."""

from dataclasses import replace

import pytest

from gossamer.methods import MethodContext, find, names
from gossamer.training.comparison.entries import parse_entries
from gossamer.training.comparison.plan import _count, _largest, fit_size

from tiny import make_tiny_model

# Blocks that fit the tiny model; an encoder that leaves room for tokens.
MORE = {"smt": ":block_size=4", "p_tuning": ":encoder_size=2"}
SIZED = [name for name in names() if find(name).size_setting is not None]


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """A base model of which many are made without weights."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "one", num_hidden_layers=1)


@pytest.mark.parametrize("name", SIZED)
def test_the_largest_size_within_the_budget_is_found(name, one_layer):
    entry = parse_entries([name + MORE.get(name, "")])[0]
    method = find(name).from_values(entry.given)
    context = MethodContext(
        model_name="tiny",
        base_folder=one_layer,
        base_fingerprint="0",
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=10,
    )
    budget = _count(method, context)
    size, default = method.size_setting, entry.settings[method.size_setting]
    found = fit_size(method, entry, context, budget)
    assert found == {**entry.settings, size: found[size]}
    assert found[size] >= default * (1 - 1e-3)
    assert 0.97 * budget <= _count(method.from_values(found), context) <= budget
    half = fit_size(method, replace(entry), context, budget * 2 // 3)
    assert half[size] < default
    assert 0 < _count(method.from_values(half), context) <= budget * 2 // 3


def test_the_low_rank_methods_have_a_size():
    assert {"lora", "slora", "sparse_lora", "lorta", "lamda", "loreft", "smt"} <= set(SIZED)


def test_ranks_and_shares():
    share = _largest(lambda share: round(share * 12345), 100, whole=False)
    assert share == pytest.approx(100 / 12345, rel=1e-2)
    assert round(share * 12345) <= 100
    assert _largest(lambda share: round(share * 12345), 20000, whole=False) == 1.0
    assert _largest(lambda share: 0 if share < 0.4 else 50, 40, whole=False) is None
    assert _largest(lambda rank: 7 * rank, 7 * 13 + 3, whole=True) == 13
    assert _largest(lambda rank: 7 * min(rank, 50), 10**6, whole=True) >= 50
    assert _largest(lambda rank: 7 * rank, 6, whole=True) is None
