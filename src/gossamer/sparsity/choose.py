"""From sensitivities to a plan: the least loss for the operations that may be spent."""

from collections.abc import Sequence

from gossamer.errors import SettingError
from gossamer.sparsity.flops import WorkShape
from gossamer.sparsity.plan import Shares, SparsityPlan, by_layers
from gossamer.sparsity.sensitivity import Increase, Sensitivity, plan_of

_GRID = 4000


def choose_plan(
    sensitivity: Sensitivity,
    shape: WorkShape,
    options: SparsityPlan,
    *,
    target: float,
    length: float,
    sparse_tokens: float,
    margin: float = 0.0,
) -> SparsityPlan:
    """The plan with the least summed loss increase that keeps at most `target` of the operations.

    Of a whole run, its dense start included, on rows of `length` tokens of which `sparse_tokens`
    (a share) compute sparsely. Per layer and group one share is taken or none: a multiple-choice
    knapsack, solved exactly but for a grid of a four-thousandth of what must be saved. Losses below
    `margin`, negative ones above all, count as `margin`: such differences are noise.
    Raises `SettingError` if even the largest shares keep more than `target`.
    """
    groups = _by_group(sensitivity.increases)
    largest = [max((i.shares for i in group), key=shape.dropped_work) for group in groups]
    check_target(target, largest, shape, options, length=length, sparse_tokens=sparse_tokens)
    start = options.start if options.start < 1 else 0.0
    needed = (1 - target) / (1 - start) * shape.dense_work(length) / sparse_tokens
    chosen = _knapsack(groups, shape, needed, margin)
    return _tidy(plan_of(chosen, options), sensitivity.layers)


def check_target(
    target: float,
    largest: Sequence[Shares],
    shape: WorkShape,
    options: SparsityPlan,
    *,
    length: float,
    sparse_tokens: float,
) -> None:
    """Raise `SettingError` if a run keeps more than `target` even where all drop the `largest`."""
    start = options.start if options.start < 1 else 0.0
    dropped = sum(map(shape.dropped_work, largest))
    least = start + (1 - start) * (1 - sparse_tokens * dropped / shape.dense_work(length))
    if least > target:
        raise SettingError(
            f"target {target:g} cannot be reached: with {sparse_tokens:.0%} of the tokens sparse, "
            f"the largest shares keep {least:.2f} of the operations; allow larger shares, or use "
            "data with more context per learnt token"
        )


def _by_group(increases: Sequence[Increase]) -> list[list[Increase]]:
    groups: dict[tuple[int, str], list[Increase]] = {}
    for increase in increases:
        groups.setdefault((increase.layer, increase.group), []).append(increase)
    return list(groups.values())


def _knapsack(
    groups: list[list[Increase]], shape: WorkShape, needed: float, margin: float
) -> list[Increase]:
    """One choice or none per group, saving at least `needed`, at the least summed loss."""
    infinity = float("inf")
    # best[saved] = least loss that saves so many grid units or more.
    best = [0.0] + [infinity] * _GRID
    taken: list[list[int]] = []
    for group in groups:
        # Rounded down, so that the target is kept.
        units = [int(shape.dropped_work(i.shares) / needed * _GRID) for i in group]
        losses = [max(i.loss, margin) for i in group]
        new, choice = list(best), [-1] * (_GRID + 1)
        for number, (unit, loss) in enumerate(zip(units, losses, strict=True)):
            for saved in range(_GRID + 1):
                cost = best[max(0, saved - unit)] + loss
                if cost < new[saved]:
                    new[saved], choice[saved] = cost, number
        best = new
        taken.append(choice)
    if best[_GRID] == infinity:
        # What rounding took away: all the largest shares are needed.
        return [max(group, key=lambda i: i.share) for group in groups]
    chosen = []
    left = _GRID
    for group, choice in zip(reversed(groups), reversed(taken), strict=True):
        if choice[left] >= 0:
            increase = group[choice[left]]
            chosen.append(increase)
            left = max(0, left - int(shape.dropped_work(increase.shares) / needed * _GRID))
    return chosen


def _tidy(plan: SparsityPlan, layers: int) -> SparsityPlan:
    """Neighbouring layers of the same share as one range."""
    shares = [plan.shares(layer) for layer in range(layers)]
    ranges = {
        group: by_layers([getattr(share, group) for share in shares])
        for group in ("mlp", "qk", "vo")
    }
    return plan.updated({**ranges, "num_layers": layers})
