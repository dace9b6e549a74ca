"""The plan whose shares rise with depth by a fixed rule, as high as the loss allows.

Tokens that are not learnt from are read through the keys and values of later layers alone. So the
later a layer, the less is lost there; of the last one's MLP nothing is read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gossamer.errors import SettingError
from gossamer.sparsity.plan import Shares, SparsityPlan
from gossamer.sparsity.search.halfway import JointLoss, Progress
from gossamer.sparsity.search.work import RunWork, plan_of_shares

LARGEST = 0.95
"""The largest share of MLP channels that is tried where they are read."""
UNREAD = 0.99
"""The share of MLP channels to drop in the last layer, whose output no other token reads."""
RISE = 0.3
"""How much more than the mean share the last of the inner layers drops, and the first less."""
_PARTS = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A plan and the loss of the whole of it."""

    plan: SparsityPlan
    loss: float
    """Mean loss per learnt token, in nats, with all parts together."""


def inner_layers(count: int, first: int | None, last: int = 0) -> range:
    """The layers of `count` that are neither among the `first` nor among the `last`.

    Unset, a tenth is left out at the start: what is wrong there is carried through all others.
    """
    first = round(count / 10) if first is None else first
    if first + last >= count:
        raise SettingError(
            f"first_layers={first} and last_layers={last} leave none of the {count} layers to slice"
        )
    return range(first, count - last)


@dataclass(frozen=True, slots=True)
class GradedShares:
    """The plans that drop shares in the layers `inner` that rise with depth."""

    joint: JointLoss
    work: RunWork
    inner: range
    options: SparsityPlan
    progress: Progress
    rise: float = RISE
    """0: the same share everywhere; 0.3: 0.7 of the mean share in the first layer, 1.3 of it in
    the last."""

    def shares(self, mlp: float, attention: float) -> list[Shares]:
        """What each layer drops: `mlp` of MLP channels in the mean, `attention` of the others."""
        return [self._of_layer(layer, mlp, attention) for layer in range(self.work.shape.layers)]

    def _of_layer(self, layer: int, mlp: float, attention: float) -> Shares:
        if layer not in self.inner:
            return Shares()
        if mlp and layer == self.work.shape.layers - 1 and self.options.tokens == "context":
            mlp = UNREAD
        else:
            depth = (layer - self.inner[0]) / max(1, len(self.inner) - 1)
            mlp = min(LARGEST, round(mlp * (1 + self.rise * (2 * depth - 1)), 3))
        return Shares(mlp=mlp, qk=attention, vo=attention)

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
        if not found and self.options.back:
            return Found(self.plan(0.0, 0.0), self.joint.dense)
        if not found:
            raise SettingError(
                f"max_increase {bound:g}: even a hundredth of the MLP channels of layers "
                f"{self.inner[0]}-{self.inner[-1]} costs more; allow more, or train densely"
            )
        return min(found, key=lambda one: self.work.kept(one.plan))

    def _plan_reaching(self, target: float, attention: float) -> SparsityPlan | None:
        """The plan that keeps just `target`; None if MLPs cannot drop so much, or need not."""
        low, high = 0, round(1000 * LARGEST)
        if self.work.kept(self.plan(0.0, attention)) <= target:
            return None
        if self.work.kept(self.plan(high / 1000, attention)) > target:
            return None
        while low + 1 < high:
            middle = (low + high) // 2
            if self.work.kept(self.plan(middle / 1000, attention)) <= target:
                high = middle
            else:
                low = middle
        return self.plan(high / 1000, attention)
