"""DoRA adapters (arXiv:2402.09353): low-rank factors and the length of each row of the result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from gossamer.adapters.base_fit import require_same_base
from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import LoraSpec, read_config
from gossamer.adapters.factors import (
    Factors,
    Pairing,
    StoredFactors,
    largest_rank,
    pair_factors,
    require_fit,
)
from gossamer.adapters.identity import digest_of
from gossamer.adapters.tensor_names import PREFIX
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError

_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")


@dataclass(frozen=True)
class DoraAdapter:
    """A checked adapter in memory: row i of W' is m_i times row i of W + s B A over its length."""

    kind: ClassVar[str] = "gain"
    name: str
    digest: str
    spec: LoraSpec
    factors: Mapping[str, Factors]
    """By module path in the base model."""
    magnitudes: dict[str, torch.Tensor]
    """m [h_out] by module path; the same modules."""

    @property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return largest_rank(self.factors)


def load_dora(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
) -> DoraAdapter:
    """Read and check the DoRA adapter in `folder`; arguments and errors as `load_low_rank`."""
    spec = read_config(folder)
    name = folder.name
    require_low_rank(spec, name, allow_dora=True)
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    magnitudes = _magnitudes(weights.tensors)
    pairing = pair_factors(name, spec, weights.file.header, ignored=_MAGNITUDES)
    if base_shapes is not None:
        require_fit(name, pairing, base_shapes)
    _require_magnitudes(name, pairing, magnitudes)
    require_finite(name, weights)
    factors = StoredFactors(weights.file, pairing)
    return DoraAdapter(name, digest_of(spec.raw, weights), spec, factors, magnitudes)


def _magnitudes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in tensors.items():
        for suffix in _MAGNITUDES:
            if key.startswith(PREFIX) and key.endswith(suffix):
                found[key[len(PREFIX) : -len(suffix)]] = tensor
    return found


def _require_magnitudes(
    name: str, pairing: Pairing, magnitudes: Mapping[str, torch.Tensor]
) -> None:
    for module in sorted({*pairing.pairs, *magnitudes}):
        if module not in magnitudes or module not in pairing.pairs:
            lacks = "magnitude vector" if module in pairing.pairs else "lora_A and lora_B"
            raise AdapterFormatError(f"adapter {name}: DoRA module {module} has no {lacks}")
        rows, _ = pairing.shapes[module]
        if tuple(magnitudes[module].shape) != (rows,):
            raise AdapterFormatError(
                f"adapter {name}: the magnitude vector of {module} has shape "
                f"{list(magnitudes[module].shape)}, but the layer has {rows} outputs"
            )
