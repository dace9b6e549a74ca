"""Measures what losing channels costs in each layer alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gossamer.sparsity.plan import Shares, SparsityPlan
from gossamer.sparsity.search.halfway import JointLoss, Progress


@dataclass(frozen=True, slots=True)
class Increase:
    """The cost of one choice for one layer."""

    layer: int
    group: str
    """ "mlp" or "attention" (queries, keys, values and the output projection together)."""
    share: float
    """Share of channels that are dropped."""
    loss: float
    """Increase of the mean loss per learnt token, in nats; may be below zero by chance."""

    @property
    def shares(self) -> Shares:
        if self.group == "mlp":
            return Shares(mlp=self.share)
        return Shares(qk=self.share, vo=self.share)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The result of a sweep."""

    layers: int
    dense_loss: float
    increases: list[Increase]


def sweep(
    joint: JointLoss,
    *,
    mlp_shares: Sequence[float],
    attention_shares: Sequence[float],
    options: SparsityPlan,
    progress: Progress = lambda done, total: None,
) -> Sensitivity:
    """Measure every layer, group and share, one at a time, all other layers dense.

    `options` gives token rule, criterion and sample; its own shares are not used. `progress` hears
    of each measurement. Afterwards `joint` stands behind the last layer and is of no use.
    """
    shares = [("mlp", share) for share in mlp_shares]
    shares += [("attention", share) for share in attention_shares]
    count = joint.layers
    found = []
    for layer in range(count):
        for group, share in shares:
            choice = Increase(layer, group, share, 0.0)
            found.append(replace(choice, loss=joint.increase(plan_of([choice], options))))
            progress(len(found), count * len(shares))
        joint.advance()
    return Sensitivity(layers=count, dense_loss=joint.dense, increases=found)


def plan_of(choices: Sequence[Increase], options: SparsityPlan) -> SparsityPlan:
    """The plan that makes `choices`, one per layer and group; the rest as in `options`."""
    shares: dict[str, dict[str, float]] = {"mlp": {}, "qk": {}, "vo": {}}
    for choice in sorted(choices, key=lambda choice: choice.layer):
        for group in ("mlp",) if choice.group == "mlp" else ("qk", "vo"):
            shares[group][str(choice.layer)] = choice.share
    return options.updated({**shares, "num_layers": None})
