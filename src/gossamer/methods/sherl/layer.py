"""An early decoder block, which runs without a backward pass."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import UnsupportedAdapterError, UsageError
from gossamer.methods.common.tuner_layer import GossamerBlock
from gossamer.methods.sherl.config import SherlConfig
from gossamer.methods.sherl.side import SideNetwork


class Tapped:
    """The hidden states of one forward pass that the side network will read."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []

    def begin(self, embeddings: Tensor) -> None:
        """Forget what there is, and begin with what goes into the first block."""
        self._states = [embeddings.detach()]

    def add(self, state: Tensor) -> None:
        """Add the output of a block."""
        self._states.append(state)

    def take(self, count: int) -> list[Tensor]:
        """Return all `count` states and forget them; raises `UsageError` if some are missing."""
        states, self._states = self._states, []
        if len(states) != count:
            raise UsageError(
                f"SHERL: the last early block was reached with {len(states)} of {count} states; "
                "call the whole model, not its blocks, and recompute no block (transformers' "
                "gradient checkpointing leaves the early ones out by itself)"
            )
        return states


class SherlBlock(GossamerBlock):
    """Stands in for an early block: no graph, evaluation mode, its output read where wanted.

    Behind the last early block of an adapter stands its side network, whose output is what the late
    blocks get. Evaluation mode means no dropout, and no gradient checkpointing of what has no
    gradient. While no adapter acts, the block is as it would be without this.
    """

    adapter_layer_names = ("sherl_side",)
    other_param_names = ("sherl_config",)

    def __init__(self, block: nn.Module, number: int, tapped: Tapped, width: int) -> None:
        super().__init__(block, width)
        self.number = number
        self.tapped = tapped
        self.sherl_config: dict[str, SherlConfig] = {}
        self.sherl_side = nn.ModuleDict()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the block; behind the last early one [batch, q, d] comes from the side."""
        name = self._acting()
        self._set_mode(self.training and name is None)
        if name is None:
            return self.base_layer(*args, **kwargs)
        if self.number == 0:
            self.tapped.begin(args[0] if args else kwargs["hidden_states"])
        with torch.no_grad():
            output = self.base_layer(*args, **kwargs)
        config = self.sherl_config[name]
        assert config.layers
        if self.number in config.layers:
            self.tapped.add(output[0] if isinstance(output, tuple) else output)
        if self.number < config.last:
            return output
        hidden = self.sherl_side[name](self.tapped.take(len(config.layers) + 1))
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def update_layer(self, adapter_name: str, config: SherlConfig, path: str) -> None:
        """Add an adapter: its side network here, if this is its last early block."""
        self.sherl_config[adapter_name] = config
        if self.number == config.last:
            self.sherl_side[adapter_name] = self._placed(self._new_side(config))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def base_dtype(self) -> torch.dtype | None:
        return next((p.dtype for p in self.base_layer.parameters() if p.is_floating_point()), None)

    def restore_mode(self) -> None:
        """Give the block the mode that it would have without an adapter."""
        self._set_mode(self.training)

    def _new_side(self, config: SherlConfig) -> SideNetwork:
        assert config.layers
        inner = self.out_features // config.reduction
        gated, taps = config.skip == "gated", len(config.layers) + 1
        return SideNetwork(self.out_features, inner, taps, form=config.form, gated=gated)

    def _placed(self, side: SideNetwork) -> SideNetwork:
        """Move to where the block is, in float32, or float64 where the base is in that."""
        if any(parameter.is_meta for parameter in side.parameters()):
            return side
        dtype = torch.float64 if self.base_dtype() == torch.float64 else None
        return side.to(device=next(self.base_layer.parameters()).device, dtype=dtype)

    def _acting(self) -> str | None:
        active = [name for name in self.active_adapters if name in self.sherl_config]
        if self.disable_adapters or not active:
            return None
        if len(active) > 1:
            raise UnsupportedAdapterError(
                f"SHERL adapters each make the input of the late layers, and cannot act together: "
                f"{active}; set_adapter one of them"
            )
        return active[0]

    def _set_mode(self, training: bool) -> None:
        if self.base_layer.training != training:
            self.base_layer.train(training)
