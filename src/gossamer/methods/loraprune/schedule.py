"""When how much is pruned: the cubic course of the ratio over the steps of a run."""

import math


def ratio_at(step: int, total: int, *, final: float, warmup: float, recovery: float) -> float:
    """Return the share that is to be gone after `step` of `total` steps.

    0 for the first `warmup` share of the steps, `final` for the last `recovery` share; in between
    p(t) = p_f - p_f (1 - (t - t_w) / (T - t_w - t_c))^3: fast at first, ever slower.
    """
    begun, left = warmup * total, recovery * total
    if step <= begun:
        return 0.0
    if step >= total - left:
        return final
    return final * (1 - (1 - (step - begun) / (total - begun - left)) ** 3)


def last_pruning(total: int, recovery: float) -> int:
    """Return the first step at which the ratio is the final one."""
    # What is left is taken down by rounding alone: 100 - 0.1 * 100 may be 90 and a bit.
    return min(total, math.ceil(total - recovery * total - 1e-9))


def is_due(step: int, total: int, *, interval: int, warmup: float, recovery: float) -> bool:
    """Whether something is pruned after `step`: each `interval` steps, and when the ratio has
    become the final one; never again after that."""
    last = last_pruning(total, recovery)
    return step == last or (warmup * total < step < last and step % interval == 0)


def removed(ratio: float, count: int) -> int:
    """Return how many of `count` are gone at a ratio, rounded down."""
    # A bit more than the product, which may be 27.999999999999996 for 0.28 * 100.
    return int(ratio * count + 1e-9)


def share_of(gone: int, count: int) -> float:
    """Return the ratio in the fewest digits, two at least, that removes just `gone` of `count`."""
    scale = 100
    while removed(ratio := math.ceil(gone / count * scale) / scale, count) != gone:
        scale *= 10
    return ratio
