"""The plan that drops the same share in all inner layers, as much as the loss allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gossamer.errors import SettingError
from gossamer.sparsity.plan import Shares, SparsityPlan
from gossamer.sparsity.search.halfway import JointLoss, Progress
from gossamer.sparsity.search.work import RunWork, plan_of_shares

LARGEST = 0.95
"""The largest share of MLP channels that is tried."""
_PARTS = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A plan and the loss of the whole of it."""

    plan: SparsityPlan
    loss: float
    """Mean loss per learnt token, in nats, with all parts together."""


def inner_layers(count: int, first: int | None, last: int | None) -> range:
    """The layers of `count` that are neither among the `first` nor among the `last`.

    Unset, a tenth is left out at the start and a fifteenth at the end: there activations of some
    tokens grow a hundredfold and are taken back.
    """
    first = round(count / 10) if first is None else first
    last = round(count / 15) if last is None else last
    if first + last >= count:
        raise SettingError(
            f"first_layers={first} and last_layers={last} leave none of the {count} layers to slice"
        )
    return range(first, count - last)


@dataclass(frozen=True, slots=True)
class EqualShares:
    """The plans that drop equal shares in the layers `inner`."""

    joint: JointLoss
    work: RunWork
    inner: range
    options: SparsityPlan
    progress: Progress

    def shares(self, mlp: float, attention: float) -> list[Shares]:
        """What each layer drops: `mlp` of MLP channels, `attention` of the others, or nothing."""
        inner = Shares(mlp=mlp, qk=attention, vo=attention)
        layers = range(self.work.shape.layers)
        return [inner if layer in self.inner else Shares() for layer in layers]

    def plan(self, mlp: float, attention: float) -> SparsityPlan:
        """The plan of these shares."""
        return plan_of_shares(self.shares(mlp, attention), self.options)

    def reaching(self, target: float, attention_shares: Sequence[float] = ()) -> Found:
        """The plan of least loss that keeps at most `target` of a run's operations.

        Besides MLPs alone, attention is tried at each of `attention_shares`.
        Raises `SettingError` if none can.
        """
        shares = [0.0, *attention_shares]
        self.check_target(target, shares)
        plans = [plan for share in shares if (plan := self._plan_reaching(target, share))]
        found = []
        for number, plan in enumerate(plans):
            found.append(Found(plan, self.joint(plan)))
            self.progress(number + 1, len(plans))
        return min(found, key=lambda one: one.loss)

    def check_target(self, target: float, attention_shares: Sequence[float]) -> None:
        """Raise `SettingError` if no plan keeps at most `target`."""
        most = max([0.0, *attention_shares])
        self.work.check_target(target, self.shares(LARGEST, most))

    def within(self, bound: float, attention_shares: Sequence[float] = ()) -> Found:
        """The plan that keeps least of a run while it adds at most `bound` nats to the loss.

        The share of MLP channels is found by bisection, in whole hundredths, for MLPs alone and
        for each of `attention_shares`. Raises `SettingError` if not even the least share is within.
        """
        shares = [0.0, *attention_shares]
        most = (1 + math.ceil(math.log2(_PARTS))) * len(shares)
        done = 0

        def measure(mlp: float, attention: float) -> Found:
            nonlocal done
            plan = self.plan(mlp, attention)
            found = Found(plan, self.joint(plan))
            done += 1
            self.progress(done, most)
            return found

        found = []
        for share in shares:
            best = None
            low, high = 0, round(LARGEST * _PARTS)
            trial = high
            while low < high:
                one = measure(trial / _PARTS, share)
                if one.loss - self.joint.dense <= bound:
                    best, low = one, trial
                else:
                    high = trial - 1
                trial = (low + high + 1) // 2
            if best is not None:
                found.append(best)
        if not found:
            raise SettingError(
                f"max_increase {bound:g}: even a hundredth of the MLP channels of layers "
                f"{self.inner[0]}-{self.inner[-1]} costs more; allow more, or train densely"
            )
        return min(found, key=lambda one: self.work.kept(one.plan))

    def _plan_reaching(self, target: float, attention: float) -> SparsityPlan | None:
        """The plan that keeps just `target`; None if MLPs cannot drop so much, or need not."""
        needed = self.work.to_drop(target, self.shares(LARGEST, attention))
        rest = needed - self.work.dropped(self.shares(0.0, attention))
        # Rounded up, so that the target is kept.
        share = math.ceil(1000 * rest / self.work.dropped(self.shares(1.0, 0.0))) / 1000
        return self.plan(share, attention) if 0 < share <= LARGEST else None
