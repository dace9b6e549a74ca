"""A decoder layer that is computed together with the others of the reversible stack."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.methods.common.tuner_layer import GossamerBlock
from gossamer.methods.meft.adapter import StreamAdapter, new_linears
from gossamer.methods.meft.config import MeftConfig
from gossamer.methods.meft.stack import ReversibleStack


class MeftLayer(GossamerBlock):
    """Stands in for a decoder layer: holds its two adapters, and hands its calls to the stack."""

    adapter_layer_names = ("meft_f_down", "meft_f_up", "meft_g_down", "meft_g_up")
    other_param_names = ("meft_config",)

    def __init__(self, block: nn.Module, stack: ReversibleStack, index: int, width: int) -> None:
        super().__init__(block, width)
        self.stack = stack
        self.index = index
        self.meft_config: dict[str, MeftConfig] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())

    def update_layer(self, adapter_name: str, config: MeftConfig, path: str) -> None:
        """Add two adapters, which add nearly nothing yet."""
        self.meft_config[adapter_name] = config
        like = next(self.base_layer.parameters())
        # In float32, unless the base is wider: small steps would be rounded away.
        dtype = torch.float64 if like.dtype == torch.float64 else None
        for half in ("f", "g"):
            linears = new_linears(self.out_features, config.width)
            for part, linear in zip(("down", "up"), linears, strict=True):
                if not linear.weight.is_meta:
                    linear.to(device=like.device, dtype=dtype)
                getattr(self, f"meft_{half}_{part}")[adapter_name] = linear
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def adapter(self, half: str, name: str) -> StreamAdapter:
        """Return the adapter `name` of "f" or "g", as it acts in this mode."""
        config = self.meft_config[name]
        down, up = (getattr(self, f"meft_{half}_{part}")[name] for part in ("down", "up"))
        dropout = config.dropout if self.training else 0.0
        return StreamAdapter(down, up, config.activation, dropout)

    def base_dtype(self) -> torch.dtype | None:
        return next((p.dtype for p in self.base_layer.parameters() if p.is_floating_point()), None)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        name = self.stack.active(self)
        if name is None:
            return self.base_layer(hidden, *args, **kwargs)
        if args:
            raise TypeError("a reversible layer takes the hidden states and named arguments only")
        return self.stack.reach(self, name, hidden, kwargs)
