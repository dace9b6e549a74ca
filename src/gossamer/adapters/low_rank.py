"""Low-rank adapters: W + s B A, with all that could make this wrong checked at the border."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from gossamer.adapters.checks import require_low_rank
from gossamer.adapters.config import LoraSpec, read_config
from gossamer.adapters.identity import digest_of
from gossamer.adapters.weights import read_weights, require_finite
from gossamer.errors import AdapterFormatError, BaseMismatchError, UnsupportedAdapterError

PREFIX = "base_model.model."
"""What PEFT puts in front of module paths."""

_A, _B = ".lora_A.weight", ".lora_B.weight"
_FACTOR_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Kept by VeLoRA for the backward pass; the forward pass is that of LoRA.
_TRAINING_ONLY = (".lora_velora_embed",)


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


@dataclass(frozen=True)
class LowRankAdapter:
    """A checked adapter in memory."""

    kind: ClassVar[str] = "low-rank"
    name: str
    digest: str
    spec: LoraSpec
    factors: dict[str, Factors]
    """By module path in the base model, such as `model.layers.0.self_attn.q_proj`."""

    @property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return max(factors.rank for factors in self.factors.values())


def load_low_rank(
    folder: Path,
    *,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
    base_fingerprint: str | None = None,
) -> LowRankAdapter:
    """Read and check the LoRA adapter in `folder`.

    `base_shapes` maps each linear layer of the base model that can be adapted to (h_out, h_in).
    With `base_fingerprint`, an adapter that carries another fingerprint is refused; one that
    carries none is judged by its shapes alone.

    Raises:
        AdapterNotFoundError: no such adapter.
        AdapterFormatError: damaged, incomplete, inconsistent, pickled, or NaN inside.
        UnsupportedAdapterError: anything but plain low-rank factors; never approximated.
        BaseMismatchError: made for another base model.
    """
    spec = read_config(folder)
    name = folder.name
    require_low_rank(spec, name)
    weights = read_weights(folder)
    require_same_base(name, weights.base_fingerprint, base_fingerprint)
    factors = pair_factors(name, spec, weights.tensors)
    if base_shapes is not None:
        for module, pair in factors.items():
            require_fit(name, module, pair, base_shapes.get(module))
    require_finite(name, weights)
    return LowRankAdapter(name, digest_of(spec.raw, weights), spec, factors)


def pair_factors(
    name: str, spec: LoraSpec, tensors: Mapping[str, torch.Tensor]
) -> dict[str, Factors]:
    """Pair A and B of each module, in the order of module names: files keep none.

    Raises:
        AdapterFormatError: a factor lacks its partner or contradicts the config.
        UnsupportedAdapterError: a tensor that is no factor of a linear layer.
    """
    modules: dict[str, None] = {}
    for key in tensors:
        if key.endswith(_TRAINING_ONLY):
            continue
        module, _ = module_of_key(name, key, (_A, _B), "a low-rank factor")
        modules[module] = None
    if not modules:
        raise AdapterFormatError(f"adapter {name} holds no low-rank factors")
    return {module: _factors(name, spec, module, tensors) for module in sorted(modules)}


def require_same_base(name: str, carried: str | None, served: str | None) -> None:
    """Raise `BaseMismatchError` if both fingerprints are known and differ."""
    if carried is not None and served is not None and carried != served:
        raise BaseMismatchError(
            f"adapter {name} was trained on a base model with fingerprint {carried[:12]}, not on "
            f"this one ({served[:12]}); use the base it was trained on"
        )


def require_fit(name: str, module: str, factors: Factors, shape: tuple[int, int] | None) -> None:
    """Raise `BaseMismatchError` unless `module` exists in the base with a fitting shape."""
    shape = require_linear(name, module, {module: shape} if shape is not None else {})
    own = (factors.b.shape[0], factors.a.shape[1])
    if own != tuple(shape):
        raise BaseMismatchError(
            f"adapter {name} expects {module} of shape {list(own)}, but the base model has "
            f"{list(shape)}; use the base it was trained on"
        )


def require_linear(
    name: str, module: str, base_shapes: Mapping[str, tuple[int, int]]
) -> tuple[int, int]:
    """(h_out, h_in) of `module`; raises `BaseMismatchError` if the base has no such layer."""
    if module not in base_shapes:
        raise BaseMismatchError(
            f"adapter {name} adapts {module}, which is no linear layer that can be adapted in "
            "this base model; use the base it was trained on"
        )
    return base_shapes[module]


def require_shape(name: str, what: str, own: tuple[int, ...], base: tuple[int, ...]) -> None:
    """Raise `BaseMismatchError` unless `own`, the shape of `what`, is that of the base."""
    if own != base:
        raise BaseMismatchError(
            f"adapter {name}: {what} has shape {list(own)}, but the base model needs {list(base)}; "
            "use the base it was trained on"
        )


def require_number_format(name: str, key: str, tensor: torch.Tensor) -> None:
    """Raise `UnsupportedAdapterError` unless `tensor` is float32, float16 or bfloat16."""
    if tensor.dtype not in _FACTOR_DTYPES:
        raise UnsupportedAdapterError(
            f"adapter {name}: {key} is stored as {tensor.dtype}; save it as float32, float16 or "
            "bfloat16"
        )


def module_of_key(name: str, key: str, suffixes: Sequence[str], what: str) -> tuple[str, str]:
    """(module path, suffix) of a tensor's name.

    Raises `UnsupportedAdapterError` for a tensor that is not `what`.
    """
    for suffix in suffixes:
        if key.startswith(PREFIX) and key.endswith(suffix):
            return key[len(PREFIX) : -len(suffix)], suffix
    if ".lora_embedding_" in key or key.endswith(("embed_tokens.weight", "lm_head.weight")):
        raise UnsupportedAdapterError(
            f"adapter {name} changes the embeddings or the output layer ({key}), which is not "
            "supported; merge it into its base model with PEFT instead"
        )
    raise UnsupportedAdapterError(
        f"adapter {name} holds the tensor {key}, which is not {what} of a linear layer"
    )


def _factors(
    name: str, spec: LoraSpec, module: str, tensors: Mapping[str, torch.Tensor]
) -> Factors:
    a, b = (tensors.get(f"{PREFIX}{module}{suffix}") for suffix in (_A, _B))
    if a is None or b is None:
        missing, present = ("lora_A", "lora_B") if a is None else ("lora_B", "lora_A")
        raise AdapterFormatError(f"adapter {name}: {module} has {present} but no {missing}")
    require_number_format(name, module, a)
    require_number_format(name, module, b)
    if a.dim() != 2 or b.dim() != 2:
        raise UnsupportedAdapterError(f"adapter {name}: {module} is not a linear layer")
    rank = spec.rank_of(module)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterFormatError(
            f"adapter {name}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, but "
            f"its config says rank {rank}"
        )
    return Factors(a, b, spec.scale_of(module))
