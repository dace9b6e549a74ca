"""Vectors that were trained: biases (BitFit, arXiv 2106.10199) and norms (arXiv 2312.11420)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from gossamer.adapters.fields import COMMON, REFUSED, refuse_fields
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.kinds.trained_parts import TrainedParts, find_parts
from gossamer.adapters.source import AdapterSource
from gossamer.errors import AdapterFormatError, UnsupportedAdapterError

_ENDINGS = (".beft_bias", ".ln_tuning_layers.weight", ".ln_tuning_layers.bias")


@dataclass(frozen=True)
class VectorAdapter(Adapter):
    """A checked adapter in memory whose biases and norms are its own."""

    kind: ClassVar[str] = "vector"
    parts: TrainedParts

    @property
    def modules(self) -> Collection[str]:
        """Paths of the layers and norms that it changes."""
        return self.parts.modules


def load_vector(source: AdapterSource) -> VectorAdapter:
    """Read and check a BEFT or LN_TUNING adapter. Raises as `load_low_rank`."""
    name = source.name
    refuse_fields(name, source.config, REFUSED, {*COMMON, "init_weights"})
    with source.open_weights() as stored:
        found = find_parts(name, stored.header.places, {}, source.base)
        for key in stored.header.places:
            if not key.endswith(_ENDINGS) or key not in found.places:
                raise UnsupportedAdapterError(
                    f"adapter {name} holds the tensor {key}, which is no bias and no part of a norm"
                )
        source.budget.require_room_for(name, stored.header)
        weights = source.read_finite(stored)
    if not found.places:
        raise AdapterFormatError(f"adapter {name} holds no biases and no norms")
    return VectorAdapter(name, source.digest(weights), found.read(weights, is_tied=False))
