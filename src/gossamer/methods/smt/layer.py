"""A linear layer whose chosen blocks of weights learn, as PEFT sees it."""

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from gossamer.errors import AdapterFormatError, UnsupportedAdapterError, UsageError
from gossamer.methods.common.peft_internals import BufferDict
from gossamer.methods.common.tuner_layer import GossamerLayer, require_finite
from gossamer.methods.smt.autograd import BlockPlan, add_blocks, block_linear, make_plan


class SmtLinear(GossamerLayer):
    """W [out, in] frozen plus, for each adapter, blocks of weight changes.

    `smt_blocks` int32 [blocks, 4]: row, column, height, width; `smt_values` [weights in blocks]:
    the changes, row-major, one block after the other.
    """

    # PEFT ships no types, and torch takes every unknown name for a tensor or module.
    smt_blocks: Any

    adapter_layer_names = ("smt_values",)
    other_param_names = ("smt_blocks",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.smt_values = nn.ParameterDict({})
        self.smt_blocks = BufferDict({}, persistent=True)
        self._plans: dict[str, tuple[Tensor, int, BlockPlan]] = {}
        self._before_merge: list[tuple[str, list[Tensor]]] = []
        self.in_features: int = self.base_layer.in_features
        self.out_features: int = self.base_layer.out_features

    def update_layer(
        self, adapter_name: str, blocks: Tensor, count: int, *, inference_mode: bool = False
    ) -> None:
        """Add an adapter that changes nothing yet: `blocks` int32 [blocks, 4], in which there are
        `count` weights. `inference_mode`: it does not learn."""
        self.smt_blocks[adapter_name] = blocks
        self.smt_values[adapter_name] = nn.Parameter(torch.zeros(count))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def resize(self, adapter_name: str, blocks: Tensor, values: Tensor, where: str) -> None:
        """Make room for stored `blocks` and `values`; raises `AdapterFormatError` if malformed."""
        problem = self._problem(blocks, values)
        if problem:
            raise AdapterFormatError(f"{where}: {problem}")
        old = self.smt_values[adapter_name]
        if old.shape != values.shape:
            room = torch.zeros(values.shape, dtype=old.dtype, device=old.device)
            self.smt_values[adapter_name] = nn.Parameter(room, requires_grad=old.requires_grad)
        table = self.smt_blocks[adapter_name]
        if table.shape != blocks.shape:
            self.smt_blocks[adapter_name] = torch.zeros(
                blocks.shape, dtype=torch.int32, device=table.device
            )

    def _problem(self, blocks: Tensor, values: Tensor) -> str | None:
        if blocks.dim() != 2 or blocks.shape[1] != 4 or blocks.is_floating_point():
            return f"smt_blocks has shape {tuple(blocks.shape)} and type {blocks.dtype}, not [n, 4]"
        row, column, height, width = blocks.long().unbind(1)
        shape = f"[{self.out_features}, {self.in_features}]"
        if bool((torch.stack([row, column, height - 1, width - 1]) < 0).any()):
            return "smt_blocks has negative places or empty blocks"
        if bool(
            (row + height > self.out_features).any() | (column + width > self.in_features).any()
        ):
            return f"smt_blocks reaches outside the weight {shape}"
        if values.shape != (int((height * width).sum()),):
            return f"smt_values has shape {tuple(values.shape)}, which is not the blocks' size"
        return None

    def plan(self, adapter_name: str) -> BlockPlan:
        """Return where that adapter's blocks lie."""
        table = self.smt_blocks[adapter_name]
        # What is made under torch.inference_mode() counts no versions; loading forgets all.
        version = 0 if table.is_inference() else table._version
        known = self._plans.get(adapter_name)
        if known is None or known[0] is not table or known[1] != version:
            known = table, version, make_plan(table.tolist())
            if any(not block.size for block in known[2].blocks):
                raise UsageError(
                    f"smt: where the blocks of adapter '{adapter_name}' lie is not known, since "
                    "its configuration comes from a file; load its weights, or give the "
                    "configuration blocks"
                )
            self._plans[adapter_name] = known
        return known[2]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._plans.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [
            n for n in self.active_adapters if n in self.smt_values and len(self.smt_blocks[n])
        ]
        if self.disable_adapters or self.merged or not names:
            out: Tensor = self.base_layer(x, *args, **kwargs)
            return out
        if self._is_plain(x):
            first = names.pop(0)
            base = self.base_layer
            out = block_linear(x, base.weight, base.bias, self.smt_values[first], self.plan(first))
        else:
            out = self.base_layer(x, *args, **kwargs)
        for name in names:
            out = add_blocks(out, x, self.smt_values[name], self.plan(name))
        return out

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the base layer is a frozen matrix product, to be computed along with ours."""
        base = self.base_layer
        return (
            type(base) is nn.Linear
            and base.weight.dtype == x.dtype
            and not base.weight.requires_grad
            and (base.bias is None or not base.bias.requires_grad)
            and not (base._forward_hooks or base._forward_pre_hooks or base._backward_hooks)
            and not torch.is_autocast_enabled(x.device.type)
        )

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the adapter's change of the whole weight [out, in], in the type of its values."""
        values = self.smt_values[adapter].detach()
        plan = self.plan(adapter)
        delta = values.new_zeros(self.out_features, self.in_features)
        for (i, j, height, width), matrix in zip(plan.blocks, plan.matrices(values), strict=True):
            delta[i : i + height, j : j + width] += matrix
        return delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the blocks to the base weight; `safe_merge` refuses values that are not finite.

        Raises `UnsupportedAdapterError` for a quantised base, where small changes would be lost.
        """
        weight = self.base_layer.weight
        if not weight.is_floating_point():
            raise UnsupportedAdapterError(
                f"cannot merge SMT blocks into a {type(self.base_layer).__name__}: rounding would "
                "lose them; load the base model in full precision and merge there"
            )
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.smt_values:
                continue
            values = self.smt_values[name].detach()
            if safe_merge:
                require_finite(weight.data + self.get_delta_weight(name).to(weight), name)
            plan = self.plan(name)
            places = [weight.data[i : i + h, j : j + w] for i, j, h, w in plan.blocks]
            self._before_merge.append((name, [place.clone() for place in places]))
            for place, matrix in zip(places, plan.matrices(values), strict=True):
                place += matrix.to(place)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put the base weight back, bit by bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self._before_merge:
            name, before = self._before_merge.pop()
            blocks = self.plan(name).blocks
            # In reverse, for blocks that overlap.
            for (i, j, h, w), block in reversed(list(zip(blocks, before, strict=True))):
                self.base_layer.weight.data[i : i + h, j : j + w] = block
        self.merged_adapters.clear()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def __repr__(self) -> str:
        return "smt." + super().__repr__()
