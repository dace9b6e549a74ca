"""The traffic generator: gaps, popularity, lengths, seeds; as S-LoRA's evaluation defines them."""

import math
import statistics
from collections import Counter
from itertools import pairwise

import pytest

from gossamer.errors import SettingError
from gossamer.serving.loadtest.workload import Workload


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
def test_gaps_have_the_mean_and_the_burstiness(cv):
    count = 40_000
    trace = Workload(rate=5.0, cv=cv, duration=count / 5, seed=2).trace()
    assert len(trace) == count
    gaps = [b.time - a.time for a, b in pairwise(trace)]
    # Standard errors of the mean and, from the fourth moment of a Gamma variable, of its cv.
    assert statistics.fmean(gaps) == pytest.approx(0.2, abs=3 * 0.2 * cv / math.sqrt(count))
    found = statistics.stdev(gaps) / statistics.fmean(gaps)
    error = cv * math.sqrt((1 + 6 * cv**2 / 2 + cv**2) / (2 * count))
    assert found == pytest.approx(cv, abs=3 * error)


@pytest.mark.parametrize(
    ("popularity", "alpha"),
    [("power", a) for a in (0.1, 0.3, 0.6, 1.0)] + [("zipf", 0.8), ("zipf", 1.5)],
)
def test_adapters_are_as_popular_as_they_should_be(popularity, alpha):
    workload = Workload(
        adapters=50, popularity=popularity, alpha=alpha, rate=1000, duration=40, seed=1
    )
    count = workload.num_requests
    found = Counter(arrival.adapter for arrival in workload.trace())
    probabilities = workload.probabilities()
    assert sum(probabilities) == pytest.approx(1)
    chi_squared = sum(
        (found[i] - count * p) ** 2 / (count * p) for i, p in enumerate(probabilities) if p
    )
    # 49 degrees of freedom: mean 49, deviation about 10.
    assert chi_squared < 49 + 4 * math.sqrt(2 * 49)


def test_an_exponent_of_one_is_uniform_and_a_small_one_favours_the_first():
    # The published chances of adapter 0 among 200.
    for alpha, chance in ((0.1, 0.59), (0.3, 0.20), (0.6, 0.042), (1.0, 0.005)):
        assert Workload(alpha=alpha).probabilities()[0] == pytest.approx(chance, rel=0.03)


def test_lengths_are_uniform_between_the_limits():
    trace = Workload(rate=100, duration=100, min_prompt=8, max_prompt=11, max_output=9).trace()
    assert Counter(a.prompt_tokens for a in trace).keys() == {8, 9, 10, 11}
    assert {a.output_tokens for a in trace} == {8, 9}
    assert min(Counter(a.prompt_tokens for a in trace).values()) > 2300


def test_the_same_seed_gives_the_same_trace():
    assert Workload(seed=4).trace() == Workload(seed=4).trace()
    assert Workload(seed=4).trace() != Workload(seed=5).trace()


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(SettingError, match="min_prompt=9 is more than max_prompt=8"):
        Workload.parse({"min_prompt": 9, "max_prompt": 8})
