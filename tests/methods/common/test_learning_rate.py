"""The default learning rate of a method, by the width of the model."""

import math

import pytest

from gossamer import methods
from gossamer.methods.common.learning_rate import NARROW, WIDE, DefaultRate

RATE = DefaultRate(1e-3, 2e-4, source="a sweep; a paper")


@pytest.mark.parametrize(
    ("hidden_size", "rate"),
    [(48, 1e-3), (NARROW, 1e-3), (WIDE, 2e-4), (12288, 2e-4), (2048, 3.5e-4), (960, 6.6e-4)],
)
def test_it_lies_between_the_anchors_by_the_width_and_is_flat_outside(hidden_size, rate):
    assert RATE.at(hidden_size) == pytest.approx(rate)


def test_its_logarithm_is_linear_in_that_of_the_width():
    middle = round(math.sqrt(NARROW * WIDE))
    assert RATE.at(middle) == pytest.approx(math.sqrt(1e-3 * 2e-4), rel=0.03)


def test_it_has_two_figures():
    assert all(RATE.at(width) == float(f"{RATE.at(width):.1e}") for width in range(576, 4096, 64))


def test_a_flat_one_is_the_same_at_every_width():
    flat = DefaultRate.flat(0.03, source="a guide")
    assert {flat.at(width) for width in (64, 576, 1024, 8192)} == {0.03}
    assert str(flat) == "0.03"


def test_it_tells_its_anchors():
    assert str(RATE).startswith("0.001 up to hidden size 576, 0.0002 from 4096 on")


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_one_with_its_source(name):
    rate = methods.default_rate(name)
    assert 0 < rate.wide <= rate.narrow < 1
    assert len(rate.source) > 10
