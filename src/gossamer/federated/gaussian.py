"""What the noise of Flower's local privacy is worth, exactly."""

import math

_FAR = 25.0
"""From here on the tail of the normal distribution is taken from its series."""


def exact_delta(epsilon: float, delta: float) -> float:
    """Return the delta that noise has at `epsilon` which was made for `delta` by the formula of
    Dwork and Roth, sigma = D sqrt(2 ln(1.25 / delta)) / epsilon, as Flower makes it.

    That formula is proven for epsilon up to 1. Exact is (Balle and Wang 2018, arXiv 1805.06530,
    theorem 8) delta = Phi(D / (2 sigma) - epsilon sigma / D) - e^epsilon Phi(-D / (2 sigma) -
    epsilon sigma / D), from which D, how much two changes can differ, cancels out.
    """
    times = math.sqrt(2 * math.log(1.25 / delta))
    a, b = epsilon / (2 * times) - times, epsilon / (2 * times) + times
    # e^epsilon phi(b) = phi(a), which does not overflow.
    return math.erfc(-a / math.sqrt(2)) / 2 - _density(a) * _tail_over_density(b)


def highest_epsilon(epsilon: float, delta: float) -> float:
    """Return the highest epsilon below `epsilon` whose exact delta is not above `delta`."""
    low, high = 0.0, epsilon
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_delta(middle, delta) <= delta else (low, middle)
    return low


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _tail_over_density(x: float) -> float:
    if x < _FAR:
        return math.erfc(x / math.sqrt(2)) / 2 / _density(x)
    y = 1 / x
    return y - y**3 + 3 * y**5 - 15 * y**7
