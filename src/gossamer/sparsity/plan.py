"""A plan says which layers compute with how few channels, for which tokens, from which step."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from gossamer.errors import SettingError, UnknownNameError
from gossamer.settings import Settings

GROUPS = ("mlp", "qk", "vo", "back")
_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")

Compensating = Literal["linear", "mean", "none"]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
ByLayers = dict[str, Share]


@dataclass(frozen=True, slots=True)
class Shares:
    """What one decoder layer drops."""

    mlp: float = 0.0
    """Share of the MLP's intermediate channels."""
    qk: float = 0.0
    """Share of the query and key channels."""
    vo: float = 0.0
    """Share of the value channels and their partners at the input of the output projection."""
    back: float = 0.0
    """Share of the sparse tokens whose way back through frozen products is left out."""

    @property
    def any(self) -> bool:
        return bool(self.mlp or self.qk or self.vo or self.back)


class SparsityPlan(Settings):
    """What to drop, where and when. Layers are counted from 0, as in `{"3-30": 0.9, "31": 0.5}`."""

    name: str = ""
    """A name for the plan, shown in tables."""

    num_layers: Annotated[int, Field(ge=1)] | None = None
    """Decoder layers of the model that the plan is for; another model is refused. Unset: any."""

    mlp: ByLayers = Field(default={})
    """Share of MLP channels to drop, by layers."""

    qk: ByLayers = Field(default={})
    """Share of query and key channels to drop, by layers. `attention` in a file sets qk and vo."""

    vo: ByLayers = Field(default={})
    """Share of value channels to drop, with their partners in the output projection, by layers."""

    back: ByLayers = Field(default={})
    """Share of the sparse tokens for which the way back through a frozen product is left out, by
    layers: those whose gradients at its outputs are smallest. Going forward nothing changes, so the
    loss stays exact; of the gradients of early layers a small part is missing."""

    start: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Dense steps at the start: a share of all steps if below 1, else a number of steps."""

    tokens: Literal["context", "all"] = "context"
    """Tokens that compute sparsely: only those whose output is not learnt from, or all."""

    span: Literal["batch", "sample"] = "batch"
    """Tokens that are learnt from stay dense, and all between the first and the last: of the whole
    batch, so that all rows are cut alike (as published), or of each row for itself."""

    border: Literal["outputs", "labels"] = "outputs"
    """Where the dense span begins and ends: with the tokens whose outputs are learnt from (each
    predicts the next, so it begins before the first label), or one later, with the labels, as
    published."""

    dense_first: Annotated[int, Field(ge=0)] = 1
    """Tokens at the start of each row, after padding, that stay dense. The first carries
    activations a hundred times larger than those of others; 0 as published."""

    criterion: Literal["sample", "svd", "oracle", "random"] = "sample"
    """How channels are chosen: by their true norms over a few of the batch's sparse tokens, those
    of an MLP by what they add to its output; by a low-rank guess of them over all tokens, as
    published; by true norms over all (costs the dense product; to judge the others); or by chance
    (to judge the choice)."""

    sample_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens whose true norms the criterion `sample` looks at, evenly spaced."""

    sample_of: Literal["batch", "row"] = "batch"
    """Whether this number of tokens is sampled of the whole batch or of each row."""

    compensation: Compensating | None = None
    """What stands in for MLP channels that are left out: the regression, on the block's input, of
    what they add to the tokens of the criterion `sample`; their mean there; or nothing, as
    published. Unset: linear with that criterion, none with others, which know no tokens."""

    rank: Annotated[int, Field(ge=1)] = 8
    """The rank of the criterion `svd`."""

    mean_tokens: bool = True
    """Whether the MLP's guess looks at the mean of each row's tokens, as published, or at each."""

    released_mapping: bool = False
    """Whether query heads that share keys and values are matched to them as the published code did.
    It matched channels that do not belong together; only for comparison with its results."""

    detach_base: bool = False
    """Whether sparse tokens send no gradient through the sliced base of adapted layers, as in the
    published code; only for comparison with its results."""

    seed: int = 0
    """The seed of the random criterion."""

    @model_validator(mode="before")
    @classmethod
    def _attention_is_both(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "attention" not in values:
            return values
        values = dict(values)
        both = values.pop("attention")
        if "qk" in values or "vo" in values:
            raise ValueError("attention sets both qk and vo; give either attention, or qk and vo")
        return {**values, "qk": both, "vo": both}

    @model_validator(mode="after")
    def _compensation_needs_a_sample(self) -> Self:
        if self.compensation not in (None, "none") and self.criterion != "sample":
            raise ValueError(
                f"compensation: {self.compensation} is fitted to sampled tokens, and the criterion "
                f"{self.criterion} samples none; set criterion: sample, or compensation: none"
            )
        return self

    @property
    def compensating(self) -> Compensating:
        """What stands in for left-out MLP channels, where the plan says it or not."""
        if self.compensation is None:
            return "linear" if self.criterion == "sample" else "none"
        return self.compensation

    @field_validator(*GROUPS, mode="before")
    @classmethod
    def _keys_are_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): share for key, share in value.items()}
        return value

    @field_validator(*GROUPS)
    @classmethod
    def _layers_once(cls, value: ByLayers) -> ByLayers:
        _expand(value)
        return value

    def shares(self, layer: int) -> Shares:
        """What layer number `layer` drops."""
        return Shares(**{group: _expand(getattr(self, group)).get(layer, 0.0) for group in GROUPS})

    def all_shares(self, num_layers: int) -> list[Shares]:
        """What each layer drops; `SettingError` if the plan is for another number of layers."""
        label = f"plan '{self.name}'" if self.name else "plan"
        if self.num_layers not in (None, num_layers):
            raise SettingError(
                f"{label} is for a model of {self.num_layers} layers; this one has {num_layers}"
            )
        named = [layer for group in GROUPS for layer in _expand(getattr(self, group))]
        if named and max(named) >= num_layers:
            raise SettingError(
                f"{label}: there is no layer {max(named)}; the model has 0 to {num_layers - 1}"
            )
        return [self.shares(layer) for layer in range(num_layers)]

    def first_sparse_step(self, total_steps: int | None) -> float:
        """Steps before this one are dense; raises `SettingError` if that cannot be told."""
        if self.start == 0 or self.start >= 1:
            return self.start
        if total_steps is None:
            raise SettingError(
                f"start={self.start:g} is a share of all steps: give total_steps, or a start of 0 "
                "or of whole steps"
            )
        return self.start * total_steps

    def as_yaml(self) -> str:
        """The plan as the text of a plan file; what equals a default is left out."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        if values.get("qk") and values.get("qk") == values.get("vo"):
            values["attention"] = values.pop("qk")
            del values["vo"]
        return yaml.safe_dump(values, sort_keys=False)


def kept(channels: int, share: float) -> int:
    """How many of `channels` remain when `share` is dropped; the rounding is the published one."""
    return int(channels * (1 - share))


def by_layers(shares: list[float]) -> ByLayers:
    """Group layers of equal share: `[0, .9, .9, 0]` becomes `{"1-2": 0.9}`."""
    result: ByLayers = {}
    start = 0
    for layer in range(1, len(shares) + 1):
        if layer < len(shares) and shares[layer] == shares[start]:
            continue
        if shares[start]:
            key = str(start) if start == layer - 1 else f"{start}-{layer - 1}"
            result[key] = shares[start]
        start = layer
    return result


def published_plans() -> list[str]:
    """Names of the plans that the authors of SparseLoRA released."""
    folder = files("gossamer.sparsity").joinpath("plans")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def load_plan(source: str | os.PathLike[str]) -> SparsityPlan:
    """A plan file, or a published plan by name.

    Raises:
        UnknownNameError: neither a file nor a published plan.
        SettingError: the file is not a plan.
    """
    name = os.fspath(source)
    if name in published_plans():
        entry = files("gossamer.sparsity").joinpath("plans", f"{name}.yaml")
        return SparsityPlan.parse(yaml.safe_load(entry.read_text()), where=f"plan '{name}'")
    path = Path(name).expanduser()
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or path.parent != Path():
            raise SettingError(f"plan file '{name}' does not exist")
        raise UnknownNameError.among("plan (neither a file nor published)", name, published_plans())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise SettingError(f"plan file '{name}' cannot be read as YAML") from None
    if not isinstance(values, dict):
        raise SettingError(f"plan file '{name}' must hold 'setting: value' lines")
    return SparsityPlan.parse(values, where=f"plan file '{name}'")


def _expand(shares: ByLayers) -> dict[int, float]:
    """`{"1-2": 0.9}` as `{1: 0.9, 2: 0.9}`; raises `ValueError` on other keys."""
    result: dict[int, float] = {}
    for key, share in shares.items():
        for part in str(key).split(","):
            match = _RANGE.fullmatch(part.strip())
            if match is None:
                raise ValueError(f"'{key}' is no layer or range of layers such as 3-30")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise ValueError(f"'{key}' ends before it begins")
            for layer in range(first, last + 1):
                if layer in result:
                    raise ValueError(f"layer {layer} is named twice")
                result[layer] = share
    return result
