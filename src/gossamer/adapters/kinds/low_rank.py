"""Low-rank adapters: which tensors of a file are factors of which layer, and what they hold."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from gossamer.adapters.base_shape import require_linear
from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import LoraSpec, lora_spec
from gossamer.adapters.kinds.adapter import Adapter
from gossamer.adapters.layout import PREFIX, module_of_key
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_file import SafetensorsFile
from gossamer.adapters.reading.safetensors_header import Header, Place
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

_A, _B = ".lora_A.weight", ".lora_B.weight"
# Kept by VeLoRA for the backward pass; the forward pass is that of LoRA.
_TRAINING_ONLY = (".lora_velora_embed",)
_LARGEST = torch.finfo(torch.float32).max

FindOthers = Callable[[Mapping[str, Place]], tuple[str, ...]]
"""Judges the tensors of a file that are no factors; returns their names."""


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
        """The rank: rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class Pair:
    """The places of the `Factors` of one linear layer in a file."""

    a: Place
    b: Place
    scale: float

    @property
    def rank(self) -> int:
        """The rank: rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class Pairing:
    """The places of all factors that a file holds.

    One object for adapters that differ in nothing but numbers, so that what follows from it alone
    can be worked out once for all of them.
    """

    pairs: Mapping[str, Pair]
    """By module path in the base model, in the order of module paths: files keep none."""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return (h_out, h_in) of each module, by its path."""
        return {path: (p.b.shape[0], p.a.shape[1]) for path, p in self.pairs.items()}

    @cached_property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return max((pair.rank for pair in self.pairs.values()), default=0)


def pair_factors(
    name: str,
    spec: LoraSpec,
    header: Header,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    *,
    ignored: tuple[str, ...] = (),
    limits: AdapterLimits,
) -> Pairing:
    """Pair A and B of each module.

    Tensors whose names end with one of `ignored` are left to the caller.

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
    if not modules and not set(places).intersection(ignored):
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
class LowRankAdapter(Adapter):
    """A checked low-rank adapter in memory: y += scale * (x A^T) B^T at each of its modules."""

    kind: ClassVar[str] = "low-rank"
    spec: LoraSpec
    file: SafetensorsFile
    pairing: Pairing
    """Where the factors lie in `file`."""

    @cached_property
    def factors(self) -> dict[str, Factors]:
        """The factors by module path in the base model, as views of the file.

        Made when they are asked for: hundreds of views take longer than reading a small adapter.
        """
        tensor = self.file.tensor
        return {
            path: Factors(tensor(pair.a), tensor(pair.b), pair.scale)
            for path, pair in self.pairing.pairs.items()
        }

    @property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return self.pairing.max_rank

    @property
    def modules(self) -> Collection[str]:
        """Paths of the linear layers that it changes."""
        return self.pairing.pairs


def load_low_rank(source: AdapterSource, others: FindOthers | None = None) -> LowRankAdapter:
    """Read and check a LoRA adapter; without `others`, one of factors alone.

    Weights are read only after all that the file's header tells has been judged.

    Raises:
        AdapterNotFoundError: no such adapter.
        AdapterFormatError: damaged, incomplete, inconsistent, pickled, NaN inside, or more than
            the budget's limits allow.
        CapacityError: more than the budget's memory could hold.
        UnsupportedAdapterError: anything but plain low-rank factors; never approximated.
        BaseMismatchError: made for another base model.
    """
    name, limits = source.name, source.budget.limits
    spec = lora_spec(source.folder, source.config, limits)
    require_low_rank(spec, name, allow_parts=others is not None)
    with source.open_weights() as stored:
        ignored = others(stored.header.places) if others is not None else ()
        pairing = pair_factors(
            name, spec, stored.header, source.linears, ignored=ignored, limits=limits
        )
        source.budget.require_room_for(name, stored.header, low_rank=True)
        weights = source.read_finite(stored)
    return LowRankAdapter(name, source.digest(weights), spec, weights, pairing)


def method_of_low_rank(config: Mapping[str, Any]) -> str:
    """Name the method that learned such an adapter."""
    if config.get("use_dora"):
        return "dora"
    return "rslora" if config.get("use_rslora") else "lora"


def merge_low_rank(
    adapter: LowRankAdapter, path: str, _layer: nn.Linear, weight: torch.Tensor
) -> None:
    """Add s B A to W of the module `path`, in place."""
    factors = adapter.factors[path]
    weight += factors.scale * (factors.b.to(weight) @ factors.a.to(weight))
