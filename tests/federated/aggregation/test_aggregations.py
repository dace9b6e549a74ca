"""Each aggregation against its equation, in float64, on matrices small enough to make whole."""

import pytest
import torch

from gossamer.errors import UnknownNameError
from gossamer.federated.aggregation import TABLE, find_aggregation
from gossamer.federated.aggregation.base import distance_to_mean
from gossamer.federated.aggregation.flora import fresh_factors
from gossamer.federated.aggregation.tensors import (
    FactorPair,
    Upload,
    cut_to_rank,
    norm_of,
    pair_names,
    spectrum_of,
)

H_OUT, H_IN, RANK = 24, 18, 4
A_NAME = "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"
B_NAME = A_NAME.replace("lora_A", "lora_B")
PATH = "model.layers.0.mlp.up_proj"
WEIGHTS = (0.5, 0.3, 0.2)


def randn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def before():
    return {A_NAME: randn(RANK, H_IN, seed=1), B_NAME: randn(H_OUT, RANK, seed=2)}


def uploads(name, *, turn=0, ranks=(None, None, None)):
    """What three clients send: of the factors that learn, other numbers each."""
    parts = find_aggregation(name).parts(turn)
    sent = []
    for number, (weight, rank) in enumerate(zip(WEIGHTS, ranks, strict=True)):
        tensors = {
            key: cut_to_rank(key, value + randn(*value.shape, seed=10 + number + ord(part)), rank)
            for key, value, part in zip(before(), before().values(), "AB", strict=True)
            if part in parts
        }
        sent.append(Upload(tensors, weight, rank))
    return sent


def product(tensors):
    return tensors[B_NAME] @ tensors[A_NAME]


def ideal(sent):
    """sum w_i B_i A_i, factors that did not learn being those of the start."""
    total = torch.zeros(H_OUT, H_IN, dtype=torch.float64)
    for upload in sent:
        held = {k: cut_to_rank(k, v, upload.rank) for k, v in before().items()}
        total += upload.weight * product({**held, **upload.tensors})
    return total


def result(name, sent):
    """The server's product after a round, what went into the base included, and all of it."""
    combined = find_aggregation(name).combine(before(), sent, seed=3)
    merged = combined.merged.get(PATH)
    whole = product(combined.tensors)
    return whole if merged is None else whole + merged.b @ merged.a, combined


def distance(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("name", "turn", "bound"),
    [
        ("ffa", 0, 1e-14),
        ("rolora", 0, 1e-14),
        ("rolora", 1, 1e-14),
        ("flora", 0, 1e-14),
        ("fedex", 0, 1e-12),
    ],
)
def test_exact_ones_give_the_mean_of_the_products(name, turn, bound):
    sent = uploads(name, turn=turn)
    found, combined = result(name, sent)
    assert find_aggregation(name).exact
    assert distance(found, ideal(sent)) < bound
    assert distance_to_mean(before(), sent, combined) < 1e-7


@pytest.mark.parametrize("name", ["fedit", "zero-pad"])
def test_means_of_factors_miss_the_covariance(name):
    sent = uploads(name)
    found, combined = result(name, sent)
    mean_a, mean_b = combined.tensors[A_NAME], combined.tensors[B_NAME]
    missed = sum(
        u.weight * (u.tensors[B_NAME] - mean_b) @ (u.tensors[A_NAME] - mean_a) for u in sent
    )
    torch.testing.assert_close(ideal(sent) - found, missed, rtol=1e-12, atol=1e-12)
    expected = float(missed.norm() / ideal(sent).norm())
    assert distance_to_mean(before(), sent, combined) == pytest.approx(expected, rel=1e-9)
    assert expected > 0.1


def test_flex_misses_what_an_svd_leaves_out():
    sent = uploads("flex")
    found, combined = result("flex", sent)
    singular = torch.linalg.svdvals(ideal(sent))
    tail = float(singular[RANK:].square().sum().sqrt())
    assert float((found - ideal(sent)).norm()) == pytest.approx(tail, rel=1e-9)
    assert distance_to_mean(before(), sent, combined) == pytest.approx(
        tail / float(ideal(sent).norm()), rel=1e-9
    )


def test_flex_cuts_to_each_rank_as_an_svd_of_that_rank_would():
    sent = uploads("flex", ranks=(4, 2, 3))
    _, combined = result("flex", sent)
    singular = torch.linalg.svdvals(ideal(sent))
    for rank in (1, 2, 3, 4):
        held = {k: cut_to_rank(k, v, rank) for k, v in combined.tensors.items()}
        tail = float(singular[rank:].square().sum().sqrt())
        assert float((product(held) - ideal(sent)).norm()) == pytest.approx(tail, rel=1e-9)


def test_flex_leaves_components_that_can_learn_where_there_is_nothing():
    start = {A_NAME: before()[A_NAME], B_NAME: torch.zeros(H_OUT, RANK, dtype=torch.float64)}
    combined = find_aggregation("flex").combine(start, [Upload(start, 1.0)], seed=0)
    assert torch.equal(combined.tensors[A_NAME], start[A_NAME])
    assert torch.equal(combined.tensors[B_NAME], start[B_NAME])


@pytest.mark.parametrize("name", ["flora", "zero-pad", "flex"])
def test_ranks_may_differ(name):
    ranks = (4, 1, 2)
    sent = uploads(name, ranks=ranks)
    found, combined = result(name, sent)
    if name == "flora":
        assert combined.merged[PATH].a.shape[0] == sum(ranks)
        assert distance(found, ideal(sent)) < 1e-14
    if name == "zero-pad":
        # The components that only the first client has count with its weight alone.
        torch.testing.assert_close(
            combined.tensors[A_NAME][2:], WEIGHTS[0] * sent[0].tensors[A_NAME][2:]
        )
    assert combined.tensors[A_NAME].shape == (RANK, H_IN)
    assert combined.tensors[B_NAME].shape == (H_OUT, RANK)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_one_client_is_its_own_mean(name):
    """All but flora go on with the very factors; flex and flora with the same product."""
    (only,) = uploads(name)[:1]
    alone = Upload(only.tensors, 1.0)
    found, combined = result(name, [alone])
    held = {**before(), **only.tensors}
    torch.testing.assert_close(found, product(held), rtol=1e-12, atol=1e-12)
    if name not in ("flora", "flex"):
        assert all(torch.equal(combined.tensors[key], held[key]) for key in held)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_some_need_only_sums_of_what_clients_send(name):
    """What secure aggregation can do: it shows the server weighted sums, and no client's own."""
    aggregation, sent = find_aggregation(name), uploads(name)
    sums = {key: sum(u.weight * u.tensors[key] for u in sent) for key in sent[0].tensors}
    _, each = result(name, sent)
    _, summed = result(name, [Upload(sums, 1.0)])
    same = all(torch.allclose(each.tensors[key], summed.tensors[key]) for key in before())
    assert (same and not each.merged) == aggregation.sums_only


def test_what_is_no_factor_is_averaged():
    name = "base_model.model.model.layers.0.mlp.up_proj.slora_values.default"
    start = {name: torch.zeros(3)}
    sent = [
        Upload({name: torch.tensor([1.0, 2.0, 4.0])}, 0.75),
        Upload({name: torch.ones(3)}, 0.25),
    ]
    combined = find_aggregation("fedit").combine(start, sent, seed=0)
    assert combined.tensors[name].tolist() == [1.0, 1.75, 3.25]
    assert pair_names(start) == {}
    assert distance_to_mean(start, sent, combined) is None


def test_flora_draws_the_same_start_everywhere():
    first, again = (fresh_factors(before(), seed=5) for _ in range(2))
    other = fresh_factors(before(), seed=6)
    assert torch.equal(first[A_NAME], again[A_NAME])
    assert not torch.equal(first[A_NAME], other[A_NAME])
    assert not first[B_NAME].any()
    assert first[A_NAME].abs().max() <= H_IN**-0.5


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_spectra_and_norms_are_those_of_the_whole_product(rank):
    pair = FactorPair(randn(rank, H_IN, seed=1), randn(H_OUT, rank, seed=2))
    whole = pair.b @ pair.a
    found = spectrum_of(pair)
    torch.testing.assert_close((found.u * found.s) @ found.vt, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        found.s[: min(rank, H_IN)], torch.linalg.svdvals(whole)[: min(rank, H_IN)]
    )
    assert norm_of(pair) == pytest.approx(float(whole.norm()), rel=1e-12)


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(UnknownNameError, match="fedit"):
        find_aggregation("fedti")
