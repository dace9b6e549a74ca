"""Computes how much of the floating-point work of training remains under a plan.

Per token and layer, a multiply-add counted as two: a frozen linear layer with P weights costs 2 P
forward and 2 P for the gradient of its input, an adapter's weights 6 each, causal attention
6 T d. Channels that are chosen by true norms cost the products of the tokens that are looked at,
forward: 2 for each weight of gate and up, of q and k, or of v. A token whose way back is left out
saves the 2 of the gradient for each weight that is left. To make up for what an MLP leaves
out costs those tokens the product with down as well, and each sparse token two products with as
many rows as were looked at, forward and backward: 8 d a row. Embeddings, the output head, norms,
padding, and the guess of the criterion `svd` (0.05 %) are left out.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from gossamer.sparsity.family import text_config
from gossamer.sparsity.plan import Shares, SparsityPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkShape:
    """The sizes that the work of a token depends on."""

    layers: int
    hidden: int
    intermediate: int
    query_channels: int
    key_channels: int
    adapter_weights: int
    """The number of weights of the adapter that learns, of all layers together."""

    @property
    def mlp_weights(self) -> int:
        """The number of weights of gate, up and down in one layer."""
        return 3 * self.hidden * self.intermediate

    @property
    def qk_weights(self) -> int:
        """The number of weights of q and k in one layer."""
        return self.hidden * (self.query_channels + self.key_channels)

    @property
    def vo_weights(self) -> int:
        """The number of weights of v and o in one layer."""
        return self.hidden * (self.query_channels + self.key_channels)

    @property
    def layer_weights(self) -> int:
        """The number of frozen weights of one layer."""
        return self.mlp_weights + self.qk_weights + self.vo_weights

    def dense_work(self, length: float) -> float:
        """Operations per token, forward and backward, at sequences of `length` tokens."""
        frozen = 4 * self.layer_weights
        attention = 6 * length * self.query_channels
        return self.layers * (frozen + attention) + 6 * self.adapter_weights

    def dropped_work(self, shares: Shares) -> float:
        """Operations that a token of one layer saves."""
        sliced = (
            shares.mlp * self.mlp_weights
            + shares.qk * self.qk_weights
            + shares.vo * self.vo_weights
        )
        return 4 * sliced + 2 * shares.back * (self.layer_weights - sliced)

    def scoring_work(self, shares: Shares) -> float:
        """Operations that score the channels of one layer by the true products of one token."""
        work = 0.0
        if shares.mlp:
            work += 2 * 2 * self.hidden * self.intermediate
        if shares.qk:
            work += 2 * self.qk_weights
        if shares.vo:
            work += 2 * self.hidden * self.key_channels
        return work

    def compensating_work(self, plan: SparsityPlan, *, scored: float, pairs: float) -> float:
        """Operations of a layer that stand in for MLP channels that are left out, by `plan`.

        `scored` tokens were looked at, and `pairs` counts them for each token that sees them.
        """
        if plan.compensating == "none":
            return 0.0
        work = scored * 2 * self.hidden * self.intermediate
        return work + pairs * 8 * self.hidden if plan.compensating == "linear" else work

    def choosing_share(
        self, plan: SparsityPlan, *, length: float, scored_tokens: float, pairs: float = 0.0
    ) -> float:
        """Share of the dense work that choosing channels by `plan` takes, and compensating for
        those that are left out.

        `scored_tokens` is the share of tokens whose true products are computed for it, `pairs` the
        number of such tokens that a token sees in the mean, if it is sparse.
        """
        work = 0.0
        for shares in plan.all_shares(self.layers):
            work += scored_tokens * self.scoring_work(shares)
            if shares.mlp:
                work += self.compensating_work(plan, scored=scored_tokens, pairs=pairs)
        return work / self.dense_work(length)

    def kept_share(
        self,
        plan: SparsityPlan,
        *,
        length: float,
        sparse_tokens: float,
        scored_tokens: float = 0.0,
        pairs: float = 0.0,
    ) -> float:
        """Share of the work that remains in a sparse step, the choice of channels included.

        `sparse_tokens` is the share of tokens that compute sparsely; the others are those of
        `choosing_share`.
        """
        dropped = sum(map(self.dropped_work, plan.all_shares(self.layers)))
        choosing = self.choosing_share(
            plan, length=length, scored_tokens=scored_tokens, pairs=pairs
        )
        return 1 - sparse_tokens * dropped / self.dense_work(length) + choosing

    def run_share(self, plan: SparsityPlan, *, length: int, outputs: int) -> float:
        """Share of the work of a whole run that remains, its dense start included.

        For sequences of `length` tokens, the last `outputs` of which are learnt, and channels
        chosen by a guess; a start in whole steps counts as none.
        """
        sparse_tokens = 1.0 if plan.tokens == "all" else (length - outputs) / length
        kept = self.kept_share(plan, length=length, sparse_tokens=sparse_tokens)
        start = plan.start if plan.start < 1 else 0.0
        return start + (1 - start) * kept


def work_shape(model: nn.Module, *, adapter_weights: int | None = None) -> WorkShape:
    """The sizes of `model`; adapter weights are those that learn, unless given."""
    if adapter_weights is None:
        adapter_weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return config_shape(text_config(model), adapter_weights=adapter_weights)


def config_shape(config: Any, *, adapter_weights: int) -> WorkShape:
    """The sizes of a model of transformers' configuration `config`."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return WorkShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        query_channels=heads * head_dim,
        key_channels=config.num_key_value_heads * head_dim,
        adapter_weights=adapter_weights,
    )


def lora_weights(shape: WorkShape, rank: int, *, mlp: bool) -> int:
    """Weights of LoRA of `rank` on q, k, v and o, and with `mlp` on gate, up and down."""
    ends = 4 * shape.hidden + 2 * (shape.query_channels + shape.key_channels)
    if mlp:
        ends += 3 * (shape.hidden + shape.intermediate)
    return shape.layers * rank * ends
