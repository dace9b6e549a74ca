"""Makes a plan better by moving work between layers, judged by the loss of the whole.

What a layer costs alone says which move to try; whether it stays is for the joint loss to say, for
small effects of single layers add up to more than their sum.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gossamer.sparsity.plan import Shares, SparsityPlan
from gossamer.sparsity.search.graded import Found
from gossamer.sparsity.search.halfway import JointLoss, Progress
from gossamer.sparsity.search.sweep import Sensitivity
from gossamer.sparsity.search.work import RunWork, plan_of_shares

Part = tuple[int, str]
"""A layer, and "mlp" or "attention"."""


@dataclass(frozen=True, slots=True)
class Move:
    """One part drops less, and another as much more as keeps the work the same."""

    less: Part
    more: Part
    shares: dict[Part, float]
    """The shares after the move."""
    gain: float
    """What the loss should fall by, if each layer cost what it costs alone."""


class Exchange:
    """Moves work between the layers of a plan that keeps the share `kept` of a run."""

    def __init__(self, sensitivity: Sensitivity, work: RunWork, kept: float, step: float) -> None:
        self._work, self._kept, self._step = work, kept, step
        self._curves: dict[Part, list[tuple[float, float]]] = {}
        for one in sensitivity.increases:
            points = self._curves.setdefault((one.layer, one.group), [(0.0, 0.0)])
            points.append((one.share, one.loss))
        for points in self._curves.values():
            points.sort()

    def improve(self, found: Found, joint: JointLoss, trials: int, progress: Progress) -> Found:
        """The best plan after `trials` moves, each kept only if the joint loss falls by it."""
        tried: set[tuple[Part, Part, float, float]] = set()
        for number in range(trials):
            shares = self._shares(found.plan)
            moves = (
                move
                for move in self._moves(shares)
                if (move.less, move.more, shares[move.less], shares[move.more]) not in tried
            )
            best = max(moves, key=lambda move: move.gain, default=None)
            if best is None or best.gain <= 0:
                break
            tried.add((best.less, best.more, shares[best.less], shares[best.more]))
            plan = plan_of_shares(self._by_layer(best.shares), found.plan)
            loss = joint(plan)
            if loss < found.loss:
                found = Found(plan, loss)
            progress(number + 1, trials)
        return found

    def _moves(self, shares: dict[Part, float]) -> Iterator[Move]:
        for less in shares:
            if shares[less] == 0:
                continue
            lower = max(0.0, round(shares[less] - self._step, 4))
            won = self._cost(less, shares[less]) - self._cost(less, lower)
            for more in shares:
                if more == less:
                    continue
                higher = self._share_that_keeps(shares | {less: lower}, more)
                if not shares[more] < higher <= self._curves[more][-1][0]:
                    continue
                lost = self._cost(more, higher) - self._cost(more, shares[more])
                yield Move(less, more, shares | {less: lower, more: higher}, won - lost)

    def _share_that_keeps(self, shares: dict[Part, float], more: Part) -> float:
        """The share of `more` with which the plan keeps as much of the run as it should."""
        whole = self._work.dropped([_shares_of(more[1], 1.0)])
        needed = self._work.to_drop(self._kept, self._by_layer(shares | {more: 0.5}))
        rest = needed - self._work.dropped(self._by_layer(shares | {more: 0.0}))
        return math.ceil(10_000 * rest / whole) / 10_000

    def _cost(self, part: Part, share: float) -> float:
        """What the loss gains when `part` alone drops `share`, between the measured points."""
        at, losses = zip(*self._curves[part], strict=True)
        return float(np.interp(share, at, losses))

    def _shares(self, plan: SparsityPlan) -> dict[Part, float]:
        every = plan.all_shares(self._work.shape.layers)
        return {
            (layer, group): every[layer].mlp if group == "mlp" else every[layer].qk
            for layer, group in self._curves
        }

    def _by_layer(self, shares: dict[Part, float]) -> list[Shares]:
        every = []
        for layer in range(self._work.shape.layers):
            attention = shares.get((layer, "attention"), 0.0)
            mlp = shares.get((layer, "mlp"), 0.0)
            every.append(Shares(mlp=mlp, qk=attention, vo=attention))
        return every


def _shares_of(group: str, share: float) -> Shares:
    return Shares(mlp=share) if group == "mlp" else Shares(qk=share, vo=share)
