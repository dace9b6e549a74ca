"""Low-rank changes of the tables of tokens: of the embedding and of the output layer (LoRA)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gossamer.adapters.base_shape import BaseShape, require_shape
from gossamer.adapters.config import LoraSpec
from gossamer.adapters.layout import PREFIX
from gossamer.adapters.reading.safetensors_file import SafetensorsFile
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.weights import require_number_format
from gossamer.errors import AdapterFormatError, BaseMismatchError

_EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
_LINEAR = (".lora_A.weight", ".lora_B.weight")
_OUTPUTS = ("lm_head", "embed_out")
"""What families call the output layer, where the base model is not known."""
_TABLES = (*_OUTPUTS, "embed_tokens", "embed_in", "wte")


@dataclass(frozen=True, slots=True)
class TableFactors:
    """The change of a table [tokens, width]: scale * tokens @ width."""

    tokens: Tensor
    """Shape [n, rank]: of the embedding A transposed, of the output layer B."""
    width: Tensor
    """Shape [rank, width]: of the embedding B transposed, of the output layer A."""
    scale: float

    @property
    def rank(self) -> int:
        """The rank."""
        return self.width.shape[0]


@dataclass(frozen=True, slots=True)
class FactorPlaces:
    """The places of the factors of one table in a file."""

    a: Place
    b: Place
    is_embedding: bool

    def read(self, weights: SafetensorsFile, scale: float) -> TableFactors:
        """Take the factors from a file that was read."""
        a, b = weights.tensor(self.a), weights.tensor(self.b)
        if self.is_embedding:
            return TableFactors(a.T, b.T, scale)
        return TableFactors(b, a, scale)


def names_tables(config: Mapping[str, Any]) -> bool:
    """Whether the config of a LoRA adapter speaks of the embedding or of the output layer."""
    targets = config.get("target_modules")
    if isinstance(targets, str):
        return any(table in targets for table in _TABLES)
    return isinstance(targets, list) and any(
        isinstance(name, str) and name.rpartition(".")[2] in _TABLES for name in targets
    )


def find_factors(
    name: str, places: Mapping[str, Place], spec: LoraSpec, base: BaseShape | None
) -> tuple[dict[str, FactorPlaces], tuple[str, ...]]:
    """Find the factors of tables among `places`.

    Returns them by module path, and the names of their tensors. Raises `AdapterFormatError` for a
    factor that lacks its partner or has another shape than its config says, `BaseMismatchError` for
    one that does not fit the base.
    """
    found: dict[str, FactorPlaces] = {}
    keys: list[str] = []
    for key in sorted(places):
        for endings in (_EMBEDDING, _LINEAR):
            path = _path(key, endings)
            if path is None or (endings is _LINEAR and not _is_output(path, base)):
                continue
            keys.append(key)
            if path not in found:
                found[path] = _pair(name, path, endings, places)
                _check(name, path, found[path], spec, base)
    return found, tuple(keys)


def _path(key: str, endings: tuple[str, str]) -> str | None:
    for ending in endings:
        if key.startswith(PREFIX) and key.endswith(ending):
            return key[len(PREFIX) : -len(ending)]
    return None


def _is_output(path: str, base: BaseShape | None) -> bool:
    if base is not None:
        return path in base.tables
    return path.rpartition(".")[2] in _OUTPUTS


def _pair(
    name: str, path: str, endings: tuple[str, str], places: Mapping[str, Place]
) -> FactorPlaces:
    a, b = (places.get(f"{PREFIX}{path}{ending}") for ending in endings)
    if a is None or b is None:
        raise AdapterFormatError(f"adapter {name}: {path} has one factor of a change, not both")
    for place in (a, b):
        require_number_format(name, path, place.dtype)
    return FactorPlaces(a, b, endings is _EMBEDDING)


def _check(
    name: str, path: str, pair: FactorPlaces, spec: LoraSpec, base: BaseShape | None
) -> None:
    rank = spec.rank_of(path)
    for factor, place, side in (("A", pair.a, 0), ("B", pair.b, 1)):
        if len(place.shape) != 2 or place.shape[side] != rank:
            raise AdapterFormatError(
                f"adapter {name}: the factor {factor} of {path} has shape {list(place.shape)}, but "
                f"its config says rank {rank}"
            )
    if base is None:
        return
    if path not in base.tables:
        raise BaseMismatchError(
            f"adapter {name} adapts {path}, which is no embedding of this base model; use the base "
            "it was trained on"
        )
    own = (pair.a.shape[1], pair.b.shape[0])
    require_shape(
        name, f"the change of {path}", own if pair.is_embedding else own[::-1], base.tables[path]
    )
