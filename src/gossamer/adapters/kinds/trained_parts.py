"""Trained parts beside linear weights: biases, norms, rows of embeddings and output layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.adapters.base_shape import BaseShape, require_shape
from gossamer.adapters.fields import short
from gossamer.adapters.kinds.table_factors import TableFactors
from gossamer.adapters.layout import PREFIX
from gossamer.adapters.reading.limits import MOST_PLACES
from gossamer.adapters.reading.safetensors_file import SafetensorsFile
from gossamer.adapters.reading.safetensors_header import Place
from gossamer.adapters.weights import require_number_format
from gossamer.errors import (
    AdapterFormatError,
    BaseMismatchError,
    UnsupportedAdapterError,
    UnsupportedModelError,
)

ADDED, TRAINED, ROWS = "added", "trained", "rows"
# How the tensors of each part end, longest first; what is left in front is a path.
_ENDINGS = (
    (".lora_B.bias", ADDED),
    (".beft_bias", ADDED),
    (".ln_tuning_layers.weight", TRAINED),
    (".ln_tuning_layers.bias", TRAINED),
    (".token_adapter.trainable_tokens_delta", ROWS),
    (".trainable_tokens_delta", ROWS),
    (".base_layer.bias", TRAINED),
    (".base_layer.weight", TRAINED),
    (".weight", TRAINED),
    (".bias", TRAINED),
)


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of an embedding or of an output layer, as they were trained."""

    ids: Tensor | None
    """Shape [n], int64, ascending: whose each row is; None: there is one for every token."""
    values: Tensor
    """Shape [n, hidden]."""


@dataclass(frozen=True, slots=True)
class TrainedParts:
    """What an adapter trained beside the weights of linear layers."""

    added: dict[str, Tensor] = field(default_factory=dict)
    """[h_out] by path of a linear layer: what is added to its outputs."""
    trained: dict[str, Tensor] = field(default_factory=dict)
    """[n] by name of a vector of the base model, such as `model.norm.weight` or the bias of a
    linear layer: what stands in its place."""
    rows: dict[str, TokenRows] = field(default_factory=dict)
    """By path of the embedding or of the output layer."""
    factors: dict[str, TableFactors] = field(default_factory=dict)
    """By path of the embedding or of the output layer: what is added to it."""
    is_tied: bool = False
    """Whether rows of the embedding are also the output layer's, in a base where both are one."""

    @property
    def modules(self) -> set[str]:
        """Paths of what is changed."""
        return {
            *self.added,
            *self.rows,
            *self.factors,
            *(name.rpartition(".")[0] for name in self.trained),
        }


@dataclass(frozen=True, slots=True)
class PartPlaces:
    """Where the trained parts lie in a file, judged by its header."""

    places: Mapping[str, tuple[str, str, Place]]
    """By tensor: which part it is of, the path (or name) of what it changes, and its place."""
    ids: Mapping[str, tuple[int, ...]]
    """By path: the tokens whose rows were trained."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(sorted(self.places))

    def read(
        self, weights: SafetensorsFile, *, scale_of: Any = None, is_tied: bool
    ) -> TrainedParts:
        """Take the parts from a file that was read.

        scale_of: by what is multiplied what is added to a layer, given its path; unset: by 1.
        """
        parts = TrainedParts(is_tied=is_tied)
        for key in self.keys:
            part, path, place = self.places[key]
            value = weights.tensor(place)
            if part == ADDED:
                factor = 1.0 if scale_of is None else scale_of(path)
                parts.added[path] = value.reshape(-1).float() * factor
            elif part == ROWS:
                parts.rows[path] = _sorted_rows(self.ids[path], value)
            elif value.dim() == 2:
                parts.rows[path.removesuffix(".weight")] = TokenRows(None, value)
            else:
                parts.trained[path] = value
        return parts


def find_parts(
    name: str, places: Mapping[str, Place], ids: Mapping[str, tuple[int, ...]],
    base: BaseShape | None,
) -> PartPlaces:  # fmt: skip
    """Find the trained parts among `places`; tensors of other kinds are left out.

    ids: the tokens whose rows were trained, by the end of the path of what holds the rows.

    Raises:
        UnsupportedAdapterError: a whole layer that is no norm, embedding or output layer.
        AdapterFormatError: of another shape than its config says.
        BaseMismatchError: of another shape than in the base, which may lack it.
    """
    found: dict[str, tuple[str, str, Place]] = {}
    tokens: dict[str, tuple[int, ...]] = {}
    for key, place in places.items():
        split = _split(key)
        if split is None:
            continue
        part, path = split
        require_number_format(name, key, place.dtype)
        found[key] = part, path, place
        if part == ROWS:
            tokens[path] = _ids_of(name, path, place, ids, base)
        elif part == ADDED:
            _check_added(name, path, place, base)
        else:
            _check_trained(name, path, place, base)
    return PartPlaces(found, tokens)


def token_ids(name: str, field_name: str, value: Any) -> tuple[int, ...]:
    """Return the tokens that a config lists; raises `AdapterFormatError`."""
    if not isinstance(value, list) or not all(
        type(i) is int and 0 <= i < MOST_PLACES for i in value
    ):
        raise AdapterFormatError(
            f"adapter {name}: {field_name} = {short(value)} must be a list of token ids"
        )
    if not value or len(set(value)) != len(value):
        what = "names a token twice" if value else "names no token"
        raise AdapterFormatError(f"adapter {name}: {field_name} {what}")
    return tuple(value)


def merge_parts(name: str, parts: TrainedParts, model: nn.Module) -> None:
    """Write the parts into `model`.

    Raises `UnsupportedModelError` where there is no such parameter, or where it is shared with a
    layer that is to stay as it is.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # What was trained stands in the place of a bias before anything is added to it.
    whole = [(_parameter(name, full, parameters), v) for full, v in parts.trained.items()]
    sums = [(_parameter(name, f"{path}.bias", parameters), v) for path, v in parts.added.items()]
    rows = [(_table(name, path, parts, parameters), v) for path, v in parts.rows.items()]
    changes = [(_table(name, path, parts, parameters), v) for path, v in parts.factors.items()]
    for parameter, value in whole:
        parameter.data.copy_(value)
    for parameter, value in sums:
        parameter.data.copy_(parameter.data.float() + value.to(parameter.device))
    for parameter, trained in rows:
        ids = slice(None) if trained.ids is None else trained.ids
        parameter.data[ids] = trained.values.to(parameter)
    for parameter, change in changes:
        tokens, width = change.tokens.to(parameter.device), change.width.to(parameter.device)
        product = tokens.float() @ width.float()
        parameter.data.copy_(parameter.data.float() + change.scale * product)


def _table(name: str, path: str, parts: TrainedParts, parameters: Mapping[str, Any]) -> Tensor:
    weight = _parameter(name, f"{path}.weight", parameters)
    others = {key for key, other in parameters.items() if other is weight} - {f"{path}.weight"}
    if others and (path in parts.factors or (not parts.is_tied and len(parts.rows) < 2)):
        raise UnsupportedModelError(
            f"adapter {name} trains {path}, whose weight is also that of "
            f"{' and '.join(sorted(others))}; merging would change both"
        )
    return weight


def _parameter(name: str, full: str, parameters: Mapping[str, Any]) -> Tensor:
    if full not in parameters:
        raise UnsupportedModelError(
            f"the base model has no {full}, which adapter {name} trains; serve the adapter instead"
        )
    found: Tensor = parameters[full]
    return found


def _split(key: str) -> tuple[str, str] | None:
    """The part that a tensor is of, and the path, or the name, of what it changes."""
    if not key.startswith(PREFIX):
        return None
    for ending, part in _ENDINGS:
        if key.endswith(ending):
            path = key[len(PREFIX) : -len(ending)]
            if ".lora_" in path or path.endswith(("lora_A", "lora_B", "lora_magnitude_vector")):
                return None
            return part, path if part != TRAINED else f"{path}.{ending.rpartition('.')[2]}"
    return None


def _check_added(name: str, path: str, place: Place, base: BaseShape | None) -> None:
    if place.shape not in ((place.numel,), (1, place.numel)):
        raise AdapterFormatError(
            f"adapter {name}: what is added to the outputs of {path} has shape "
            f"{list(place.shape)}, not [h_out] or [1, h_out]"
        )
    if base is not None:
        if path not in base.linears:
            raise _missing(name, path)
        require_shape(name, f"the bias of {path}", (place.numel,), (base.linears[path][0],))


def _check_trained(name: str, full: str, place: Place, base: BaseShape | None) -> None:
    path = full.rpartition(".")[0]
    is_table = len(place.shape) == 2
    if base is None:
        fits = len(place.shape) == 1 or path.endswith(("embed_tokens", "lm_head"))
    else:
        fits = full in base.vectors or (is_table and path in base.tables)
    if not fits:
        if base is not None and path not in base.linears:
            raise _missing(name, full)
        raise UnsupportedAdapterError(
            f"adapter {name} replaces the whole layer {path} (modules_to_save), which is no small "
            "difference to its base; of such layers, norms, biases, the embedding and the output "
            "layer are served: merge it where it was trained (PEFT's merge_and_unload) and serve "
            "that as a model"
        )
    if base is not None:
        wanted = base.tables[path] if is_table else (base.vectors[full],)
        require_shape(name, full, place.shape, tuple(wanted))


def _ids_of(
    name: str, path: str, place: Place, ids: Mapping[str, tuple[int, ...]], base: BaseShape | None
) -> tuple[int, ...]:
    for end in sorted(ids, key=len, reverse=True):
        if path == end or path.endswith(f".{end}") or end == "":
            own = ids[end]
            break
    else:
        raise AdapterFormatError(
            f"adapter {name} has trained rows of {path}, but its config names no tokens for it"
        )
    if len(place.shape) != 2 or place.shape[0] != len(own):
        raise AdapterFormatError(
            f"adapter {name}: the trained rows of {path} have shape {list(place.shape)}, but its "
            f"config names {len(own)} tokens"
        )
    if base is not None:
        if path not in base.tables:
            raise _missing(name, path)
        count, width = base.tables[path]
        require_shape(name, f"rows of {path}", (place.shape[1],), (width,))
        if own and max(own) >= count:
            raise BaseMismatchError(
                f"adapter {name} trains the row of token {max(own)}, but {path} has {count} rows; "
                "use the base it was trained on"
            )
    return own


def _missing(name: str, path: str) -> BaseMismatchError:
    return BaseMismatchError(
        f"adapter {name} trains {path}, which this base model does not have; use the base it was "
        "trained on"
    )


def _sorted_rows(ids: Iterable[int], values: Tensor) -> TokenRows:
    order = torch.tensor(list(ids), dtype=torch.int64).argsort()
    return TokenRows(torch.tensor(list(ids), dtype=torch.int64)[order], values[order])
