"""The modes of LoRTA's tensor for a model: how many rows each factor has, and whose they are."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gossamer.errors import SettingError, UnsupportedAdapterError
from gossamer.methods.common.targets import refuse_uneven_heads


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one matrix lies in the tensor: rows of the five factors, as (start, count)."""

    inputs: tuple[int, int]
    width: tuple[int, int]
    heads: tuple[int, int]
    type: int
    layer: int


@dataclass(frozen=True, slots=True)
class TensorMap:
    """Rows of each factor and the place of each matrix by its path."""

    inputs: int
    width: int
    heads: int
    types: int
    layers: int
    places: dict[str, TensorPlace]

    def parameters(self, rank: int) -> int:
        """Count the weights of all factors."""
        return rank * (self.inputs + self.width + self.heads + self.types + self.layers)


def make_plan(config: Any, matrices: Iterable[tuple[str, int, int]], types: list[str]) -> TensorMap:
    """Map a model's matrices (path, in features, out features) to rows of the tensor.

    Matrices whose mode has the same size share its rows. Where all are d x d with H heads these are
    the modes of the paper. With grouped-query attention keys and values have rows of heads of their
    own, and widths that differ have rows of their own: an extension.

    Raises `SettingError` if a matrix does not split into its heads, `UnsupportedAdapterError` if
    there is none.
    """
    config = config.get_text_config()
    refuse_uneven_heads(config, "lorta")
    count = config.num_attention_heads
    grouped = getattr(config, "num_key_value_heads", None) or count
    inputs, width, heads = _Rows(), _Rows(), _Rows()
    places = {}
    for path, features, outputs in sorted(matrices, key=lambda m: types.index(_name(m[0]))):
        name = _name(path)
        parts = grouped if name in ("k_proj", "v_proj") else count
        if outputs % parts:
            raise SettingError(
                f"target_modules: {outputs} outputs of {path} do not split into {parts} heads; "
                f"leave out {name}"
            )
        layer = re.search(r"\.(\d+)\.", path)
        if layer is None:
            raise UnsupportedAdapterError(f"{path} belongs to no numbered block")
        places[path] = TensorPlace(
            inputs=inputs.take(features),
            width=width.take(outputs // parts),
            heads=heads.take(parts),
            type=types.index(name),
            layer=int(layer[1]),
        )
    if not places:
        raise UnsupportedAdapterError(
            "lorta: the model has none of the matrices q_proj, k_proj, v_proj, o_proj that are "
            "asked for"
        )
    layers = config.num_hidden_layers
    return TensorMap(inputs.total, width.total, heads.total, len(types), layers, places)


class _Rows:
    """Rows of a factor, shared by all who ask for the same number."""

    def __init__(self) -> None:
        self.total = 0
        self._taken: dict[int, tuple[int, int]] = {}

    def take(self, count: int) -> tuple[int, int]:
        if count not in self._taken:
            self._taken[count] = (self.total, count)
            self.total += count
        return self._taken[count]


def _name(path: str) -> str:
    return path.rpartition(".")[2]
