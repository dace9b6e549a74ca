"""Side networks over the states of each token's own adapter (SHERL, arXiv 2407.07523)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.kernels.trained_parts.placed import PlacedLinear, PlacedNorm
from gossamer.kernels.trained_parts.side_equations import FEATURES, SHARPNESS, aggregate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SideTable:
    """The side network of one resident adapter."""

    layers: tuple[int, ...]
    """Numbers of the decoder blocks whose outputs are the states f_1 ... f_K, ascending; f_0 is
    what goes into the first block, and what the network makes takes the place of f_K."""
    form: str
    """Which of `FEATURES` makes the features of states."""
    adapters: tuple[tuple[PlacedLinear | PlacedNorm, ...], ...]
    """The layers of the adapter of each of the K + 1 states."""
    attend: tuple[int, int]
    """Places of v [h] and b [1] of the weights of features, in elements."""
    inner: int
    """h."""
    out: PlacedLinear
    """Makes what is added to the last state."""
    gamma: int | None
    """Place of gamma [1], in elements; None: the last state goes on whole."""


def side_feature(state: Tensor, pool: Tensor, table: SideTable, number: int) -> Tensor:
    """Return the feature p [T, h] of f [T, d], the state of this number, in float32.

    pool: the block pool as float32.
    """
    made: Tensor = FEATURES[table.form](
        state.float(), *(layer.on(pool) for layer in table.adapters[number])
    )
    return made


def side_output(features: Sequence[Tensor], last: Tensor, pool: Tensor, table: SideTable) -> Tensor:
    """Return o = W relu(a) + c + g f_K [T, d] in the type of `last`, which is f_K [T, d].

    features: p_0 ... p_K, [T, h] each; a is `aggregate` of them, computed in float32.
    """
    *shallow, guide = features
    attend, bias = table.attend
    mixed = aggregate(
        torch.stack(shallow, dim=-2),
        guide,
        pool[attend : attend + table.inner],
        pool[bias : bias + 1],
    )
    kept = last.float()
    if table.gamma is not None:
        kept = torch.tanh(pool[table.gamma : table.gamma + 1] / SHARPNESS) * kept
    return (kept + table.out.on(pool)(mixed.relu())).to(last.dtype)
