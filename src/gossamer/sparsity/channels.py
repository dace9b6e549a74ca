"""From scores of channels to the index sets that a layer computes with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.sparsity.plan import kept


@dataclass(frozen=True, slots=True)
class HeadShape:
    """How attention lays out its channels: heads one after another, `head_dim` channels each."""

    query_heads: int
    key_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.query_heads // self.key_heads

    @property
    def query_channels(self) -> int:
        return self.query_heads * self.head_dim

    @property
    def key_channels(self) -> int:
        return self.key_heads * self.head_dim


def top_channels(scores: Tensor, share: float) -> Tensor:
    """The `kept(n, share)` channels of [n] `scores` that score highest, ascending."""
    return torch.topk(scores, kept(scores.numel(), share)).indices.sort().values


def partners(channels: Tensor, heads: HeadShape, *, released: bool = False) -> Tensor:
    """Query channels that meet the key (or value) channels `channels` [k]; [group * k], ascending.

    Channel t of key head h meets channel t of the query heads h * group ... h * group + group - 1:
    (h * group + j) * head_dim + t. The published code took channel * group + j instead.
    """
    steps = torch.arange(heads.group, device=channels.device)
    if released:
        return (channels[:, None] * heads.group + steps).reshape(-1)
    head, channel = channels // heads.head_dim, channels % heads.head_dim
    found = (head[:, None] * heads.group + steps) * heads.head_dim + channel[:, None]
    return found.reshape(-1).sort().values


def key_scores(queries: Tensor, keys: Tensor, heads: HeadShape, *, released: bool) -> Tensor:
    """Score per key channel: its norm times the mean norm of its query partners.

    `queries` [query channels] and `keys` [key channels] are norms over tokens. The published code
    averaged the query channels c, c + d_kv, ... instead of the partners.
    """
    if released:
        return queries.view(heads.group, -1).mean(0) * keys
    grouped = queries.view(heads.key_heads, heads.group, heads.head_dim)
    return grouped.mean(1).reshape(-1) * keys
