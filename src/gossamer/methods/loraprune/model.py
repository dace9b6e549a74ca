"""A model as groups that are pruned as one, and their masks.

A group is a key/value head with its query heads, or a channel of an MLP: rows of the layers that
read the hidden state (q, k, v; gate, up), and the columns of the layer behind them (o; down) that
read what these rows make. Set to zero there, or cut out of all of them by the same numbers, it is
gone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gossamer.basemodel.pruned import FAMILIES, family_of
from gossamer.errors import SettingError

Part = Literal["heads", "mlp"]
PARTS: tuple[Part, ...] = ("heads", "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedLayers:
    """The attention or the MLP of one decoder layer, as groups."""

    layer: int
    part: Part
    module: Any
    """The module that has the linear layers; PEFT puts its own in their place."""
    count: int
    widths: dict[str, int]
    """Rows that a group has of each layer that reads the hidden state, by name."""
    behind: str
    """The layer behind, of which a group has columns."""

    @property
    def key(self) -> str:
        """Name the part in files: `heads.3`, `mlp.3`."""
        return f"{self.part}.{self.layer}"

    @property
    def columns(self) -> int:
        """Columns that a group has of the layer behind."""
        return next(iter(self.widths.values()))

    def lines(self, kept: Tensor, name: str) -> Tensor:
        """Return the rows (of the layer behind: columns) of `name` that the groups `kept` have."""
        width = self.widths.get(name, self.columns)
        return (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()

    def sums(self, of_lines: Callable[[Any, bool], Tensor], *, normalize: bool) -> Tensor:
        """Add up [count] what `of_lines(layer, columns)` gives for each row or column."""
        total: Any = 0
        for name in (*self.widths, self.behind):
            lines = of_lines(getattr(self.module, name), name == self.behind)
            sums = lines.view(self.count, -1).sum(1)
            if normalize:
                sums = sums / (sums.norm() + 1e-8)
            total = total + sums
        found: Tensor = total
        return found


def find_groups(model: Any) -> list[GroupedLayers]:
    """Return the groups of all decoder layers of the base model `model`, attention before MLP.

    Raises `SettingError` for a model of another structure.
    """
    config = model.config
    if family_of(config.model_type) not in FAMILIES:
        raise SettingError(
            f"method 'loraprune' knows models of {', '.join(FAMILIES)}, and this one is of "
            f"'{config.model_type}'"
        )
    found = []
    for number, layer in enumerate(model.get_decoder().layers):
        attention, mlp = layer.self_attn, layer.mlp
        queries, keys = (
            attention.q_proj.out_features // attention.head_dim,
            attention.k_proj.out_features // attention.head_dim,
        )
        width = attention.head_dim
        found.append(
            GroupedLayers(
                layer=number, part="heads", module=attention, count=keys, behind="o_proj",
                widths={"q_proj": queries // keys * width, "k_proj": width, "v_proj": width},
            )
        )  # fmt: skip
        found.append(
            GroupedLayers(
                layer=number, part="mlp", module=mlp, count=mlp.gate_proj.out_features,
                behind="down_proj", widths={"gate_proj": 1, "up_proj": 1},
            )
        )  # fmt: skip
    return found


class GroupMask:
    """Sets to zero what some groups give to the layer behind; nothing is done while all are kept.

    The paper multiplies the outputs of the layers in front by 0 or 1. What a group makes reaches
    the rest of the model by its columns of the layer behind alone, so masking that layer's input is
    the same function with the same gradients, for one product instead of two or three.
    """

    def __init__(self, groups: GroupedLayers) -> None:
        self._groups = groups
        self.kept: Tensor | None = None
        """1 or 0 for each group; None: all are kept."""
        self._lines: Tensor | None = None
        getattr(groups.module, groups.behind).register_forward_pre_hook(self._hide)

    def set(self, kept: Tensor) -> None:
        """Keep the groups that have a 1 in `kept` [count]."""
        if bool(kept.bool().all()):
            self.kept = self._lines = None
        else:
            self.kept, self._lines = kept, kept.repeat_interleave(self._groups.columns)

    def _hide(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._lines is None:
            return None
        return (inputs[0] * self._lines.to(inputs[0].dtype), *inputs[1:])
