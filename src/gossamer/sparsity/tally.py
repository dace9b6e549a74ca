"""Counts what forward passes compute, and tells its share of the dense work."""

from dataclasses import dataclass

from torch import Tensor

from gossamer.sparsity.flops import WorkShape
from gossamer.sparsity.plan import SparsityPlan
from gossamer.sparsity.tokens import TokenSplit


@dataclass(slots=True)
class Tally:
    """Counts of tokens, padding left out, of forward passes with gradients."""

    tokens: int = 0
    """The number of tokens."""
    sparse_tokens: int = 0
    """The number of tokens that computed sparsely."""
    scored_tokens: int = 0
    """The number of tokens whose true products were computed to choose channels."""
    token_lengths: int = 0
    """The sum over tokens of the length of their row."""
    pairs: float = 0.0
    """The number of sampled tokens that each sparse token is multiplied with, summed over these;
    half a pair for two sampled tokens, whose products go forward alone."""

    def add(self, lengths: list[int], split: TokenSplit | None, plan: SparsityPlan) -> None:
        """Count a pass over rows of `lengths`; `split` is None if all of it was dense."""
        tokens = sum(lengths)
        self.tokens += tokens
        self.token_lengths += sum(length * length for length in lengths)
        if split is not None:
            sparse, sampled = tokens - split.dense.numel(), split.sampled.numel()
            self.sparse_tokens += sparse
            self.scored_tokens += tokens if plan.criterion == "oracle" else sampled
            self.pairs += sampled * (sparse + sampled / 2)

    def work_kept(self, plan: SparsityPlan, shape: WorkShape) -> float:
        """Share of the dense work that these passes took, by the model of FLOPs."""
        if not self.tokens:
            return 1.0
        return shape.kept_share(
            plan,
            length=self.token_lengths / self.tokens,
            sparse_tokens=self.sparse_tokens / self.tokens,
            scored_tokens=self.scored_tokens / self.tokens,
            pairs=self.pairs / self.tokens,
        )

    def choosing_work(self, plan: SparsityPlan, shape: WorkShape) -> float:
        """Share of the dense work that the choice of channels took, and what stands in for others;
        it is in `work_kept`."""
        if not self.tokens:
            return 0.0
        return shape.choosing_share(
            plan,
            length=self.token_lengths / self.tokens,
            scored_tokens=self.scored_tokens / self.tokens,
            pairs=self.pairs / self.tokens,
        )


def row_lengths(mask: Tensor | None, shape: tuple[int, int]) -> list[int]:
    """The number of tokens in each row of a batch of `shape` [batch, length], without padding.

    `mask` [batch, length] is 0 at padding; None: there is none.
    """
    if mask is None:
        return [shape[1]] * shape[0]
    lengths: list[int] = mask.bool().sum(1).tolist()
    return lengths
