"""DoRA adapters (arXiv:2402.09353): low-rank factors and the length of each row of the result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import lora_spec
from gossamer.adapters.kinds.low_rank import (
    FindOthers,
    LowRankAdapter,
    Pairing,
    merge_low_rank,
    pair_factors,
)
from gossamer.adapters.layout import PREFIX
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError

_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")


@dataclass(frozen=True)
class DoraAdapter(LowRankAdapter):
    """A checked DoRA adapter in memory.

    Row i of W' is m_i times row i of W + s B A over its length.
    """

    kind: ClassVar[str] = "gain"
    magnitudes: dict[str, torch.Tensor]
    """m [h_out] by module path; the same modules."""


def load_dora(source: AdapterSource, others: FindOthers | None = None) -> DoraAdapter:
    """Read and check a DoRA adapter. `others` and what is raised: as of `load_low_rank`."""
    name, limits = source.name, source.budget.limits
    spec = lora_spec(source.folder, source.config, limits)
    require_low_rank(spec, name, allow_dora=True, allow_parts=others is not None)
    with source.open_weights() as stored:
        found = others(stored.header.places) if others is not None else ()
        ignored = (*_MAGNITUDES, *found)
        pairing = pair_factors(
            name, spec, stored.header, source.linears, ignored=ignored, limits=limits
        )
        places = _magnitudes(stored.header.places)
        _require_magnitudes(name, pairing, places)
        _require_low_ranks(name, pairing)
        source.budget.require_room_for(name, stored.header, low_rank=True)
        weights = source.read_finite(stored)
    magnitudes = {module: weights.tensor(place) for module, place in places.items()}
    return DoraAdapter(name, source.digest(weights), spec, weights, pairing, magnitudes)


def merge_dora(adapter: DoraAdapter, path: str, layer: nn.Linear, weight: torch.Tensor) -> None:
    """Make W of the module `path` m (W + s B A) / |W + s B A| row by row (eq. 5), in place."""
    merge_low_rank(adapter, path, layer, weight)
    length = torch.linalg.norm(weight, dim=1)
    weight *= (adapter.magnitudes[path].to(weight) / length).unsqueeze(1)


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
