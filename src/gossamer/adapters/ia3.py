"""IA3 adapters (arXiv:2205.05638): factors on the outputs or the inputs of linear layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from gossamer.adapters.base_fit import require_linear, require_same_base, require_shape
from gossamer.adapters.config import read_raw
from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.identity import digest_of
from gossamer.adapters.tensor_names import module_of_key, require_number_format
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError

_SUFFIX = ".ia3_l"


@dataclass(frozen=True)
class Ia3Adapter:
    """A checked adapter in memory. A module has a factor on its output or on its input."""

    kind: ClassVar[str] = "gain"
    max_rank: ClassVar[None] = None
    name: str
    digest: str
    outputs: dict[str, torch.Tensor]
    """[h_out] by module path: y = g * (W x + b)."""
    inputs: dict[str, torch.Tensor]
    """[h_in] by module path: y = W (g * x) + b."""


def load_ia3(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
) -> Ia3Adapter:
    """Read and check the IA3 adapter in `folder`; arguments and errors as `load_low_rank`.

    PEFT stores a factor on the output as [h_out, 1] and one on the input as [1, h_in].
    """
    raw = read_raw(folder)
    name = folder.name
    refuse_fields(name, raw, REFUSED, {*COMMON, "feedforward_modules", "init_ia3_weights"})
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    outputs: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}
    for key in sorted(weights.tensors):
        tensor = weights.tensors[key]
        module, _ = module_of_key(name, key, (_SUFFIX,), "a factor of IA3")
        require_number_format(name, key, tensor.dtype)
        if tensor.dim() != 2 or 1 not in tensor.shape:
            raise AdapterFormatError(
                f"adapter {name}: {key} has shape {list(tensor.shape)}, not [h_out, 1] or [1, h_in]"
            )
        is_output = tensor.shape[1] == 1
        if base_shapes is not None:
            h_out, h_in = require_linear(name, module, base_shapes)
            size, wanted = tensor.numel(), (h_out if is_output else h_in)
            require_shape(name, f"the factor of {module}", (size,), (wanted,))
        (outputs if is_output else inputs)[module] = tensor.reshape(-1)
    require_finite(name, weights)
    return Ia3Adapter(name, digest_of(raw, weights), outputs, inputs)
