"""What noise is worth, against the integral that defines it."""

import math

import numpy as np
import pytest

from gossamer.errors import SettingError
from gossamer.federated.gaussian import exact_delta, highest_epsilon
from gossamer.federated.settings import FederatedSettings


def integrated(epsilon, delta):
    """delta = the integral of max(0, p(x) - e^epsilon q(x)) for two normal densities, D apart."""
    sigma = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    x = np.linspace(-40 * sigma, 40 * sigma + 1, 2_000_001)
    p, q = (np.exp(-((x - m) ** 2) / (2 * sigma**2)) for m in (0.0, 1.0))
    beyond = np.maximum(0, p - math.exp(epsilon) * q) / (sigma * math.sqrt(2 * math.pi))
    return float(beyond.sum() * (x[1] - x[0]))


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.5, 1e-5), (1, 1e-3), (8, 1e-5), (12, 1e-5), (30, 0.1)]
)
def test_it_is_what_the_definition_says(epsilon, delta):
    assert exact_delta(epsilon, delta) == pytest.approx(integrated(epsilon, delta), rel=1e-4)


def test_up_to_one_the_formula_holds():
    for delta in (1e-300, 1e-9, 1e-5, 0.01, 0.3):
        for epsilon in (1e-6, 0.3, 1.0):
            assert exact_delta(epsilon, delta) <= delta


def made(**settings):
    values = {"model": "m", "data": "d", "output": "o", "privacy": "local", **settings}
    return FederatedSettings.parse(values, where="run")


def test_an_epsilon_whose_noise_does_not_do_is_refused():
    assert made().privacy_epsilon == 8
    for epsilon in (20.0, 1000.0, 1e300):
        with pytest.raises(SettingError, match=r"privacy_epsilon=.*take at most"):
            made(privacy_epsilon=epsilon)
    highest = highest_epsilon(20.0, 1e-5)
    assert 8 < highest < 10
    made(privacy_epsilon=highest)
    with pytest.raises(SettingError, match="privacy_epsilon"):
        made(privacy_epsilon=highest * 1.001)
    # Who adds no noise by that formula is not asked.
    assert made(privacy="server", privacy_epsilon=20.0).privacy_epsilon == 20
