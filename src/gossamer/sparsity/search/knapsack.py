"""Chooses a plan by what each layer costs alone, spending a budget of operations best."""

from collections.abc import Sequence

from gossamer.sparsity.plan import SparsityPlan
from gossamer.sparsity.search.sweep import Increase, Sensitivity, plan_of
from gossamer.sparsity.search.work import RunWork, plan_of_shares

_GRID = 4000


def choose_plan(
    sensitivity: Sensitivity,
    work: RunWork,
    options: SparsityPlan,
    *,
    target: float,
    margin: float = 0.0,
) -> SparsityPlan:
    """The plan with the least summed loss increase that keeps at most `target` of the operations.

    Of a whole run, its dense start and the choice of channels included. Per layer and group one
    share is taken or none: a multiple-choice knapsack, solved exactly but for a grid of a
    four-thousandth of what must be saved. Losses below `margin`, negative ones above all, count as
    `margin`: such differences are noise. Raises `SettingError` if even the largest shares keep more
    than `target`.
    """
    groups = _by_group(sensitivity.increases)
    largest = [max(group, key=lambda i: i.share) for group in groups]
    shares = plan_of(largest, options).all_shares(sensitivity.layers)
    work.check_target(target, shares)
    # As if all that may be sliced were: the choice in a layer more costs a thousandth or two.
    chosen = _knapsack(groups, work, work.to_drop(target, shares), margin)
    plan = plan_of(chosen, options)
    return plan_of_shares(plan.all_shares(sensitivity.layers), options)


def _by_group(increases: Sequence[Increase]) -> list[list[Increase]]:
    groups: dict[tuple[int, str], list[Increase]] = {}
    for increase in increases:
        groups.setdefault((increase.layer, increase.group), []).append(increase)
    return list(groups.values())


def _knapsack(
    groups: list[list[Increase]], work: RunWork, needed: float, margin: float
) -> list[Increase]:
    """One choice or none per group, saving at least `needed`, at the least summed loss."""
    infinity = float("inf")
    # best[saved] = least loss that saves that number of grid units or more.
    best = [0.0] + [infinity] * _GRID
    taken: list[list[int]] = []
    for group in groups:
        # Rounded down, so that the target is kept.
        units = [int(work.dropped([i.shares]) / needed * _GRID) for i in group]
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
            left = max(0, left - int(work.dropped([increase.shares]) / needed * _GRID))
    return chosen
