"""A decoder block whose output is edited."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import UnsupportedAdapterError
from gossamer.methods.common.tuner_layer import GossamerBlock
from gossamer.methods.reft.config import ReftConfig
from gossamer.methods.reft.orthonormal import random_rows, tangent
from gossamer.methods.reft.positions import PromptTracker


def edit(hidden: Tensor, rotate: Tensor, weight: Tensor, bias: Tensor, *, subtract: bool) -> Tensor:
    """Compute what `hidden` [n, d] gets: Rᵀ(W h + b - R h) with `subtract`, else Rᵀ(W h + b).

    `rotate` R and `weight` W are [r, d], `bias` b is [r].
    """
    into = weight - rotate if subtract else weight
    return torch.addmm(bias, hidden, into.T) @ rotate


def edit_at(hidden: Tensor, where: Tensor, change: Tensor) -> Tensor:
    """A copy of `hidden` [batch, q, d] with `change` [n, d] in its place at `where` [n]; tokens
    elsewhere keep every bit."""
    width = hidden.shape[-1]
    return hidden.reshape(-1, width).index_copy(0, where, change).view(hidden.shape)


class ReftBlock(GossamerBlock):
    """Stands in for a decoder block; the edit is a hook on the block, so that everyone who records
    its output sees it edited."""

    adapter_layer_names = (
        "reft_rotate",
        "reft_weight",
        "reft_bias",
        "reft_last_rotate",
        "reft_last_weight",
        "reft_last_bias",
    )
    other_param_names = ("reft_config",)

    def __init__(self, block: nn.Module, tracker: PromptTracker, width: int) -> None:
        super().__init__(block, width)
        self.tracker = tracker
        self.reft_config: dict[str, ReftConfig] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        # Before the hooks that record hidden states.
        self._hook = block.register_forward_hook(self._edit_output, prepend=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(*args, **kwargs)

    def remove(self) -> None:
        """Take the edit off the block."""
        self._hook.remove()

    def update_layer(self, adapter_name: str, config: ReftConfig, path: str) -> None:
        """Add an edit; raises `SettingError` if the rank is above the block's width."""
        self.reft_config[adapter_name] = config
        device = next(self.base_layer.parameters()).device
        for group in config.groups:
            weights = _start(config, self.out_features)
            for name, value in zip(("rotate", "weight", "bias"), weights, strict=True):
                # In float32, unless asked otherwise: bfloat16 bends orthonormal rows.
                value = value if value.device.type == "meta" else value.to(device)
                getattr(self, f"reft_{group}{name}")[adapter_name] = nn.Parameter(value)
        self.set_adapter(self.active_adapters)

    def base_dtype(self) -> torch.dtype | None:
        return next((p.dtype for p in self.base_layer.parameters() if p.is_floating_point()), None)

    def rotations(self) -> list[nn.Parameter]:
        """Return the matrices whose rows stay orthonormal."""
        return [
            table[name]
            for name, config in self.reft_config.items()
            if config.orthogonal
            for table in (self.reft_rotate, self.reft_last_rotate)
            if name in table
        ]

    def _edit_output(self, block: nn.Module, args: Any, output: Any) -> Any:
        active = [name for name in self.active_adapters if name in self.reft_config]
        if self.disable_adapters or not active:
            return None
        if len(active) > 1:
            raise UnsupportedAdapterError(
                f"ReFT adapters edit the same positions and cannot act together: {active}"
            )
        hidden = output[0] if isinstance(output, tuple) else output
        edited = self._edited(hidden, active[0], self.reft_config[active[0]])
        if edited is None:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def _edited(self, hidden: Tensor, name: str, config: ReftConfig) -> Tensor | None:
        found = self.tracker.positions(hidden, config.first_positions, config.last_positions)
        if found is None:
            return None
        parts = [found.all()] if config.tied else [found.first, found.last]
        changed = [
            self._change(hidden, where, name, group, config)
            for where, group in zip(parts, config.groups, strict=True)
        ]
        return edit_at(hidden, torch.cat(parts).to(hidden.device), torch.cat(changed))

    def _change(
        self, hidden: Tensor, where: Tensor, name: str, group: str, config: ReftConfig
    ) -> Tensor:
        rotate, weight, bias = (
            getattr(self, f"reft_{group}{part}")[name] for part in ("rotate", "weight", "bias")
        )
        if config.orthogonal and rotate.requires_grad and torch.is_grad_enabled():
            rotate = tangent(rotate)
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, where.to(hidden.device))
        with torch.autocast(hidden.device.type, enabled=False):
            exact = chosen.to(rotate.dtype)
            added = edit(exact, rotate, weight, bias, subtract=config.variant == "loreft")
            added = nn.functional.dropout(added, config.dropout, self.training)
            return (exact + added).to(hidden.dtype)


def _start(config: ReftConfig, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """R [r, d], W [r, d] and b [r] at the start."""
    rotate = random_rows(config.rank, width)
    weight, bias = torch.empty(config.rank, width), torch.empty(config.rank)
    # The default of a linear layer from d to r, as in the authors' library.
    for value in (weight, bias):
        nn.init.uniform_(value, -(width**-0.5), width**-0.5)
    if config.start == "identity":
        bias.zero_()
        if config.variant == "loreft":
            weight.copy_(rotate)
        elif config.orthogonal:
            weight.zero_()
        else:
            rotate.zero_()
    elif not config.orthogonal:
        nn.init.uniform_(rotate, -(config.rank**-0.5), config.rank**-0.5)
    return rotate, weight, bias
