"""DoRA adapters (arXiv:2402.09353): low-rank factors and the length of each row of the result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from gossamer.adapters.base_shape import require_same_base
from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import LoraSpec, read_config
from gossamer.adapters.digest import digest_of
from gossamer.adapters.kinds.low_rank import (
    Factors,
    Pairing,
    StoredFactors,
    largest_rank,
    pair_factors,
)
from gossamer.adapters.layout import PREFIX, require_number_format
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.weights import open_weights, require_finite
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
    budget: Budget = UNBOUND,
    raw: Mapping[str, Any] | None = None,
) -> DoraAdapter:
    """Read and check the DoRA adapter in `folder`; arguments and errors as `load_low_rank`."""
    spec = read_config(folder, budget.limits, raw)
    name = folder.name
    require_low_rank(spec, name, allow_dora=True)
    with open_weights(folder, budget.limits) as stored:
        require_same_base(name, stored.base_fingerprint, base_fingerprint)
        pairing = pair_factors(
            name, spec, stored.header, base_shapes, ignored=_MAGNITUDES, limits=budget.limits
        )
        places = _magnitudes(stored.header.places)
        _require_magnitudes(name, pairing, places)
        _require_low_ranks(name, pairing)
        budget.require_room_for(name, stored.header, low_rank=True)
        weights = stored.read()
    require_finite(name, weights)
    magnitudes = {module: weights.file.tensor(place) for module, place in places.items()}
    factors = StoredFactors(weights.file, pairing)
    return DoraAdapter(name, digest_of(spec.raw, weights.file), spec, factors, magnitudes)


def _magnitudes(places: Mapping[str, Place]) -> dict[str, Place]:
    found = {}
    for key, place in places.items():
        for suffix in _MAGNITUDES:
            if key.startswith(PREFIX) and key.endswith(suffix):
                found[key[len(PREFIX) : -len(suffix)]] = place
    return found


def _require_magnitudes(name: str, pairing: Pairing, magnitudes: Mapping[str, Place]) -> None:
    for module in sorted({*pairing.pairs, *magnitudes}):
        if module not in magnitudes or module not in pairing.pairs:
            lacks = "magnitude vector" if module in pairing.pairs else "lora_A and lora_B"
            raise AdapterFormatError(f"adapter {name}: DoRA module {module} has no {lacks}")
        rows, _ = pairing.shapes[module]
        require_number_format(name, module, magnitudes[module].dtype)
        if magnitudes[module].shape != (rows,):
            raise AdapterFormatError(
                f"adapter {name}: the magnitude vector of {module} has shape "
                f"{list(magnitudes[module].shape)}, but the layer has {rows} outputs"
            )


def _require_low_ranks(name: str, pairing: Pairing) -> None:
    """The lengths of rows take rank x rank products, which must not exceed the layer itself."""
    for module, pair in pairing.pairs.items():
        widest = max(pairing.shapes[module])
        if pair.rank > widest:
            raise AdapterFormatError(
                f"adapter {name}: {module} has rank {pair.rank}, more than the {widest} inputs or "
                "outputs of the layer, which DoRA cannot use; train with a lower rank"
            )
