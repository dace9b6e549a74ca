"""Low-rank adapters: W + s B A, with all that could make this wrong checked at the border."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gossamer.adapters.base_fit import require_same_base
from gossamer.adapters.budget import UNBOUND, Budget
from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import LoraSpec, read_config
from gossamer.adapters.factors import (
    Factors,
    StoredFactors,
    largest_rank,
    pair_factors,
)
from gossamer.adapters.identity import digest_of
from gossamer.adapters.weights import open_weights, require_finite


@dataclass(frozen=True)
class LowRankAdapter:
    """A checked adapter in memory."""

    kind: ClassVar[str] = "low-rank"
    name: str
    digest: str
    spec: LoraSpec
    factors: Mapping[str, Factors]
    """By module path in the base model, such as `model.layers.0.self_attn.q_proj`."""

    @property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return largest_rank(self.factors)


def load_low_rank(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
    budget: Budget = UNBOUND,
    raw: Mapping[str, Any] | None = None,
) -> LowRankAdapter:
    """Read and check the LoRA adapter in `folder`.

    `base_shapes` maps each linear layer of the base model that can be adapted to (h_out, h_in).
    With `base_fingerprint`, an adapter that carries another fingerprint is refused; one that
    carries none is judged by its shapes alone. `raw` is the content of the config, if it was read
    already. Weights are read only after all that the file's header tells has been judged.

    Raises:
        AdapterNotFoundError: no such adapter.
        AdapterFormatError: damaged, incomplete, inconsistent, pickled, NaN inside, or more than
            the budget's limits allow.
        CapacityError: more than the budget's memory could hold.
        UnsupportedAdapterError: anything but plain low-rank factors; never approximated.
        BaseMismatchError: made for another base model.
    """
    spec = read_config(folder, budget.limits, raw)
    name = folder.name
    require_low_rank(spec, name)
    with open_weights(folder, budget.limits) as stored:
        require_same_base(name, stored.base_fingerprint, base_fingerprint)
        pairing = pair_factors(name, spec, stored.header, base_shapes, limits=budget.limits)
        budget.require_room_for(name, stored.header, low_rank=True)
        weights = stored.read()
    require_finite(name, weights)
    factors = StoredFactors(weights.file, pairing)
    return LowRankAdapter(name, digest_of(spec.raw, weights.file), spec, factors)
