"""A linear layer in SLoRA: entries that learn, or frozen entries beside factors that learn."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossamer.methods.common.peft_internals import BufferDict
from gossamer.methods.common.sparse_delta.layer import EntryLayer
from gossamer.methods.common.sparse_delta.product import entry_linear
from gossamer.methods.slora.config import SloraConfig


class SloraLinear(EntryLayer):
    """Stage 1: y = W x + D x, D zero off the mask, its entries learn.

    Stage 2 with the residual kept: y = W x + D x + s (B A - B0 A0) x. A0 and B0 are where A and B
    begin, so the stage begins as stage 1 ended; D, A0 and B0 are frozen.
    """

    index_name = "slora_index"
    adapter_layer_names = ("slora_values", "slora_A", "slora_B")
    other_param_names = ("slora_index", "slora_kept", "slora_A0", "slora_B0", "scale", "dropout")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.slora_values = nn.ParameterDict()
        self.slora_A, self.slora_B = nn.ParameterDict(), nn.ParameterDict()
        self.slora_kept = BufferDict({}, persistent=True)
        self.slora_A0 = BufferDict({}, persistent=True)
        self.slora_B0 = BufferDict({}, persistent=True)
        self.scale: dict[str, float] = {}
        self.dropout: dict[str, float] = {}

    def update_layer(self, name: str, config: SloraConfig, path: str) -> None:
        """Give the layer, which is called `path` in the base model, an adapter that changes
        nothing yet."""
        self.draw_index(name, path, seed=config.seed, density=config.density)
        count = self.index(name).shape[1]
        if config.r == 0:
            self.slora_values[name] = nn.Parameter(torch.zeros(count))
        else:
            h_out, h_in = self.shape
            self.slora_A[name] = nn.Parameter(torch.empty(config.r, h_in))
            nn.init.kaiming_uniform_(self.slora_A[name], a=math.sqrt(5))
            self.slora_B[name] = nn.Parameter(torch.zeros(h_out, config.r))
            self.slora_kept[name] = torch.zeros(count)
            self.slora_A0[name] = torch.zeros(config.r, h_in)
            self.slora_B0[name] = torch.zeros(h_out, config.r)
            self.scale[name] = config.lora_alpha / config.r
            self.dropout[name] = config.lora_dropout
        self.finish_update(name, inference_mode=config.inference_mode)

    def change(self, name: str, x: Tensor) -> Tensor:
        pattern = self.pattern(name)
        if name in self.slora_values:
            return entry_linear(x, self.slora_values[name], pattern)
        a, b = self.slora_A[name], self.slora_B[name]
        x = x.to(a.dtype)
        kept = entry_linear(x, self.slora_kept[name], pattern)
        dropped = functional.dropout(x, self.dropout[name], self.training)
        learnt = functional.linear(functional.linear(dropped, a), b)
        start = functional.linear(functional.linear(x, self.slora_A0[name]), self.slora_B0[name])
        return kept + self.scale[name] * (learnt - start)

    def get_delta_weight(self, name: str) -> Tensor:
        pattern = self.pattern(name)
        if name in self.slora_values:
            return pattern.scatter(self.slora_values[name])
        learnt: Tensor = self.slora_B[name] @ self.slora_A[name]
        start = self.slora_B0[name] @ self.slora_A0[name]
        return pattern.scatter(self.slora_kept[name]) + self.scale[name] * (learnt - start)

    def start_from(self, name: str, values: Tensor, a: Tensor, b: Tensor) -> None:
        """Keep the entries' `values`, and begin with the factors `a` [r', h_in], `b` [h_out, r'],
        r' <= r; the components beyond begin as LoRA does."""
        live = len(a)
        with torch.no_grad():
            self.slora_kept[name].copy_(values)
            for first, second in ((self.slora_A, self.slora_B), (self.slora_A0, self.slora_B0)):
                first[name][:live] = a
                second[name][:, :live] = b
