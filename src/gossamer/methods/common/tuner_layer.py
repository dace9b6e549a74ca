"""What the layers of our PEFT tuners have in common."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from gossamer.errors import AdapterError, SettingError
from gossamer.methods.common.peft_internals import BufferDict

_QUANTIZED = ("Linear4bit", "Linear8bitLt")


class BrokenAdapterError(AdapterError, ValueError):
    """Weights that would be merged are no numbers; a `ValueError` too, as PEFT's layers raise."""


class GossamerLayer(nn.Module, BaseTunerLayer):
    """Base of our layers: `base_layer` and, for each adapter, what is named in
    `adapter_layer_names` (learns) and `other_param_names` (does not)."""

    # PEFT's part of the class, which has no types.
    base_layer: Any
    get_base_layer: Any
    active_adapters: Any
    set_adapter: Any
    adapter_layer_names: tuple[str, ...]
    other_param_names: tuple[str, ...]

    cast_input_dtype_enabled = True
    """PEFT's `disable_input_dtype_casting` expects it of every layer."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(base_layer)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move as PEFT does, but numbers keep their type: what was loaded in float32 is not rounded
        to the type of the base. Only a base in float64 wants all in float64."""
        layer: Any = self
        base_device, base_dtype = layer._get_base_layer_device_and_dtype(self.get_base_layer())
        device = base_device if device is None else device
        if device is not None:
            dtype = torch.float64 if base_dtype == torch.float64 else None
            self._hold(adapter_name, device=device, dtype=dtype)

    def base_dtype(self) -> torch.dtype | None:
        """Return the type that the base layer computes in; None where it is not known."""
        layer: Any = self
        dtype = layer._get_base_layer_device_and_dtype(self.get_base_layer())[1]
        return dtype if dtype is not None and dtype.is_floating_point else None

    def cast_to_base(self, name: str) -> None:
        """Hold an adapter's numbers in the type of the base layer."""
        self._hold(name, dtype=self.base_dtype())

    def _hold(
        self, name: str, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Keep what belongs to an adapter there, and its numbers in that type; None: as they are.

        What is on the meta device, to be loaded, stays there."""
        for part in self.adapter_layer_names + self.other_param_names:
            held = getattr(self, part)
            if isinstance(held, nn.ParameterDict | nn.ModuleDict | BufferDict) and name in held:
                held[name] = _moved(held[name], device, dtype)

    def extra_repr(self) -> str:
        backend = self.quantization_backend
        return "" if backend is None else f"quantization_backend={backend.backend_name!r}"


class GossamerBlock(GossamerLayer):
    """Base of those that stand in for a whole decoder block, whose hidden states are `width` wide.

    Models look at their blocks, e.g. for the kind of attention; what is not found here is the
    block's own.
    """

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__(block)
        self.in_features = self.out_features = width

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


def _moved(item: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    tensors = item.parameters() if isinstance(item, nn.Module) else [item]
    if any(tensor.is_meta for tensor in tensors):
        device = None
    if isinstance(item, nn.Module):
        return item.to(device=device, dtype=dtype)
    moved = item.to(device=device, dtype=dtype if item.is_floating_point() else None)
    if isinstance(item, nn.Parameter) and moved is not item:
        return nn.Parameter(moved.detach(), requires_grad=item.requires_grad)
    return moved


def require_finite(merged: Tensor, name: str) -> None:
    """Raise `BrokenAdapterError` if weights that adapter `name` was merged into are no numbers.

    Begins with PEFT's words, by which others may recognise it.
    """
    if not bool(torch.isfinite(merged).all()):
        raise BrokenAdapterError(
            f"NaNs detected in the merged weights. The adapter {name} seems to be broken: it has "
            "values that are not finite; this layer was not merged"
        )


def require_linear(target: nn.Module, path: str, *, method: str, quantized: bool) -> None:
    """Raise `SettingError` unless `target` is a linear layer which the method can adapt."""
    kind = type(target).__name__
    if kind in _QUANTIZED and not quantized:
        raise SettingError(
            f"method '{method}' cannot train the entries of {path}: its weight is quantised "
            f"({kind}). Load the base model in full, or use method 'qlora'"
        )
    if not isinstance(target, nn.Linear) and resolve_quantization_backend(target) is None:
        raise SettingError(
            f"method '{method}' cannot adapt {path}: it is a {kind}, not a linear layer"
        )
