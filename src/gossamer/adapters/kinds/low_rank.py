"""Low-rank adapters: which tensors of a file are factors of which layer, and what they hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from gossamer.adapters.base_shape import require_linear, require_same_base
from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import LoraSpec, read_config
from gossamer.adapters.digest import digest_of
from gossamer.adapters.layout import PREFIX, module_of_key, require_number_format
from gossamer.adapters.reading.budget import UNBOUND, Budget
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_file import SafetensorsFile
from gossamer.adapters.reading.safetensors_header import Header, Place
from gossamer.adapters.weights import open_weights, require_finite
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

_A, _B = ".lora_A.weight", ".lora_B.weight"
# Kept by VeLoRA for the backward pass; the forward pass is that of LoRA.
_TRAINING_ONLY = (".lora_velora_embed",)
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Factors:
    """The update of one linear layer: y += scale * (x A^T) B^T."""

    a: torch.Tensor
    """[rank, h_in]"""
    b: torch.Tensor
    """[h_out, rank]"""
    scale: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the `Factors` of one linear layer lie in a file."""

    a: Place
    b: Place
    scale: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class Pairing:
    """The factors that a file holds. One object for adapters that differ in nothing but numbers,
    so that what follows from it alone can be worked out once for all of them."""

    pairs: Mapping[str, Pair]
    """By module path in the base model, in the order of module paths: files keep none."""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(h_out, h_in) by module path."""
        return {path: (p.b.shape[0], p.a.shape[1]) for path, p in self.pairs.items()}


class StoredFactors(Mapping[str, Factors]):
    """Factors as views of a file, made when they are asked for."""

    def __init__(self, file: SafetensorsFile, pairing: Pairing) -> None:
        self.file = file
        self.pairing = pairing

    def __getitem__(self, module: str) -> Factors:
        pair = self.pairing.pairs[module]
        return Factors(self.file.tensor(pair.a), self.file.tensor(pair.b), pair.scale)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pairing.pairs)

    def __len__(self) -> int:
        return len(self.pairing.pairs)


def largest_rank(factors: Mapping[str, Factors]) -> int:
    """Of any module."""
    pairs: Mapping[str, Factors | Pair] = factors
    if isinstance(factors, StoredFactors):
        pairs = factors.pairing.pairs
    return max(pair.rank for pair in pairs.values())


def pair_factors(
    name: str,
    spec: LoraSpec,
    header: Header,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    *,
    ignored: tuple[str, ...] = (),
    limits: AdapterLimits,
) -> Pairing:
    """Pair A and B of each module. Tensors whose names end with one of `ignored` are others' work.

    base_shapes: (h_out, h_in) by module path, if the base model is known.

    Raises:
        AdapterFormatError: a factor lacks its partner or contradicts the config, or the patterns of
            the config are too much work.
        UnsupportedAdapterError: a tensor that is no factor of a linear layer.
        BaseMismatchError: a module that the base lacks, or has with another shape.
    """
    pairing = header.once(
        (pair_factors, spec.ranks_and_scales, ignored),
        lambda: _pair_factors(name, spec, header.places, base_shapes, ignored, limits),
    )
    if base_shapes is not None:
        require_fit(name, pairing, base_shapes)
    return pairing


def _pair_factors(
    name: str,
    spec: LoraSpec,
    places: Mapping[str, Place],
    base_shapes: Mapping[str, tuple[int, int]] | None,
    ignored: tuple[str, ...],
    limits: AdapterLimits,
) -> Pairing:
    keys = [key for key in places if not key.endswith((*_TRAINING_ONLY, *ignored))]
    modules = {module_of_key(name, key, (_A, _B), "a low-rank factor")[0] for key in keys}
    if not modules:
        raise AdapterFormatError(f"adapter {name} holds no low-rank factors")
    if base_shapes is not None:
        for module in sorted(modules - base_shapes.keys()):
            require_linear(name, module, base_shapes)
    try:
        spec.require_affordable(modules, limits)
    except AdapterFormatError as error:
        raise AdapterFormatError(f"adapter {name}: {error}") from None
    return Pairing({module: _pair(name, spec, module, places) for module in sorted(modules)})


def _pair(name: str, spec: LoraSpec, module: str, places: Mapping[str, Place]) -> Pair:
    a, b = (places.get(f"{PREFIX}{module}{suffix}") for suffix in (_A, _B))
    if a is None or b is None:
        missing, present = ("lora_A", "lora_B") if a is None else ("lora_B", "lora_A")
        raise AdapterFormatError(f"adapter {name}: {module} has {present} but no {missing}")
    require_number_format(name, module, a.dtype)
    require_number_format(name, module, b.dtype)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise UnsupportedAdapterError(f"adapter {name}: {module} is not a linear layer")
    rank = spec.rank_of(module)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterFormatError(
            f"adapter {name}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, but "
            f"its config says rank {rank}"
        )
    scale = spec.scale_of(module)
    if abs(scale) > _LARGEST:
        raise AdapterFormatError(
            f"adapter {name}: {module} is scaled by {scale:g}, which is infinite as float32"
        )
    return Pair(a, b, scale)


def require_fit(name: str, pairing: Pairing, base_shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise `BaseMismatchError` unless each module exists in the base with a fitting shape.

    base_shapes: (h_out, h_in) by module path.
    """
    if pairing.shapes.items() <= base_shapes.items():
        return
    for module, own in pairing.shapes.items():
        shape = require_linear(name, module, base_shapes)
        if own != tuple(shape):
            raise BaseMismatchError(
                f"adapter {name} expects {module} of shape {list(own)}, but the base model has "
                f"{list(shape)}; use the base it was trained on"
            )


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
