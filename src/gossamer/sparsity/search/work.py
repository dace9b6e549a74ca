"""Computes what a plan keeps of the operations of a run, and what it must drop for a target."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gossamer.errors import SettingError
from gossamer.sparsity.flops import WorkShape
from gossamer.sparsity.plan import Shares, SparsityPlan, by_layers
from gossamer.sparsity.tally import Tally

_DEFAULTS = SparsityPlan()


@dataclass(frozen=True, slots=True)
class RunWork:
    """The operations of a run whose batches are like those counted."""

    shape: WorkShape
    tally: Tally
    """What a sparse pass over the rows of the data counts: tokens, sparse ones, sampled ones."""
    start: float
    """Share of the run's steps that are dense."""
    options: SparsityPlan = _DEFAULTS
    """What plans say beside their shares: the criterion, and what stands in for channels."""

    @property
    def sparse_share(self) -> float:
        """Share of the tokens that compute sparsely."""
        return self.tally.sparse_tokens / self.tally.tokens

    @property
    def length(self) -> float:
        """Mean length of a token's row, padding left out."""
        return self.tally.token_lengths / self.tally.tokens

    def kept(self, plan: SparsityPlan) -> float:
        """Share of the run's operations that `plan` keeps, dense start and choice included."""
        return self.start + (1 - self.start) * self.tally.work_kept(plan, self.shape)

    def choosing(self, plan: SparsityPlan) -> float:
        """Share of a sparse step's dense operations that the choice of channels takes, and what
        stands in for the others."""
        return self.tally.choosing_work(plan, self.shape)

    def dropped(self, shares: Iterable[Shares]) -> float:
        """Operations that a sparse token saves where layers drop `shares`."""
        return sum(map(self.shape.dropped_work, shares))

    def to_drop(self, target: float, sliced: Sequence[Shares]) -> float:
        """Operations that a sparse token must save for a run to keep the share `target`.

        `sliced` says which layers are sliced, since each costs a choice; how much they drop does
        not matter.
        """
        step = (target - self.start) / (1 - self.start)
        choosing = self.choosing(plan_of_shares(sliced, self.options))
        return (1 + choosing - step) * self.shape.dense_work(self.length) / self.sparse_share

    def check_target(self, target: float, largest: Sequence[Shares]) -> None:
        """Raise `SettingError` if a run keeps more than `target` though layers drop `largest`."""
        least = self.kept(plan_of_shares(largest, self.options)) if self.sparse_share else 1.0
        if least > target:
            raise SettingError(
                f"target {target:g} cannot be reached: with {self.sparse_share:.0%} of the tokens "
                f"sparse, the largest shares keep {least:.2f} of the operations; allow larger "
                "shares or more layers, or use data with more context per learnt token"
            )


def plan_of_shares(shares: Sequence[Shares], options: SparsityPlan) -> SparsityPlan:
    """The plan that drops `shares`, layer by layer; the rest as in `options`."""
    ranges = {
        group: by_layers([getattr(share, group) for share in shares])
        for group in ("mlp", "qk", "vo")
    }
    return options.updated({**ranges, "num_layers": len(shares)})
