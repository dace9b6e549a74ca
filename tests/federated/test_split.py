"""Who has which rows: nothing is lost, and heterogeneity is as asked for."""

import math
from collections import Counter

import pytest

from gossamer.errors import SettingError
from gossamer.federated.split import (
    Split,
    parse_split,
    split_by_dirichlet,
    split_by_value,
    split_evenly,
)

CLASSES = [f"class-{number % 5}" for number in range(1000)]


def dirichlet(alpha, *, seed=0, clients=4, min_rows=1):
    return split_by_dirichlet(CLASSES, clients, alpha=alpha, seed=seed, min_rows=min_rows)


def entropy(rows):
    counts = Counter(CLASSES[row] for row in rows).values()
    return -sum(c / len(rows) * math.log(c / len(rows)) for c in counts)


def mean_entropy(alpha):
    parts = [part for seed in range(10) for part in dirichlet(alpha, seed=seed)]
    return sum(map(entropy, parts)) / len(parts)


@pytest.mark.parametrize(
    "parts", [split_evenly(1000, 7, 3), dirichlet(0.1), list(split_by_value(CLASSES).values())]
)
def test_every_row_has_one_client(parts):
    assert sorted(row for part in parts for row in part) == list(range(1000))
    assert all(part == sorted(part) for part in parts)


def test_a_value_for_each_row_takes_no_longer_than_the_rows():
    # With a look at all rows for each value: a hundred times more looks than a minute has.
    values = [str(number % 300_000) for number in range(300_001)]
    shares = split_by_value(values)
    assert shares["0"] == [0, 300_000]
    assert list(shares) == sorted(shares)
    assert len(shares) == 300_000


def test_even_shares_differ_by_one_row_at_most():
    sizes = [len(part) for part in split_evenly(1000, 7, 3)]
    assert max(sizes) - min(sizes) <= 1
    assert split_evenly(1000, 7, 3) == split_evenly(1000, 7, 3) != split_evenly(1000, 7, 4)


def test_classes_spread_as_alpha_grows():
    found = [mean_entropy(alpha) for alpha in (0.05, 0.5, 5, 1e6)]
    assert found == sorted(found)
    assert found[0] < 0.8 < 1.6 < found[-1] < 1.61


def test_a_huge_alpha_gives_everyone_the_same_classes():
    for part in dirichlet(1e6):
        assert set(Counter(CLASSES[row] for row in part).values()) == {50}


def test_a_draw_is_repeated_until_everyone_has_enough():
    assert min(map(len, dirichlet(0.1, min_rows=100))) >= 100
    assert dirichlet(0.1) == dirichlet(0.1) != dirichlet(0.1, seed=1)
    with pytest.raises(SettingError, match=r"in 1000 draws of 1000 rows .* fewer than min_client"):
        dirichlet(0.01, clients=100, min_rows=10)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("iid", Split("iid")),
        ("dirichlet:0.1", Split("dirichlet", alpha=0.1)),
        ("column:site", Split("column", column="site")),
    ],
)
def test_splits_are_read(text, split):
    assert parse_split(text) == split


@pytest.mark.parametrize(
    "text", ["", "iid:3", "dirichlet", "dirichlet:0", "dirichlet:x", "column:"]
)
def test_what_is_no_split_is_refused(text):
    with pytest.raises(SettingError, match="split"):
        parse_split(text)
