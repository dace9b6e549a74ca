"""The settings that define a comparison, its budget included."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from gossamer.basemodel.find import require_known
from gossamer.errors import SettingError, unknown_name_message
from gossamer.training.comparison.entries import Entry, parse_entries
from gossamer.training.data.source import find_file
from gossamer.training.evaluation.settings import EvaluationSettings
from gossamer.training.settings import RunSettings

_KINDS = ("params", "steps", "minutes")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmb]?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonBudget:
    """The budget of a comparison; a field that is None sets no limit of its kind."""

    params: int | None = None
    """Trained parameters of each method; each takes the nearest size below."""
    steps: int | None = None
    """Optimizer steps of each run."""
    minutes: float | None = None
    """Training time of each run; each takes as many steps as fit by its own measured speed."""


def parse_budget(texts: Sequence[str]) -> ComparisonBudget:
    """Parse a budget such as `["params=500k", "steps=100"]`; raises `SettingError`."""
    found: dict[str, float] = {}
    for part in (part for text in texts for part in re.split(r"[,\s]+", text) if part):
        kind, sign, value = part.partition("=")
        if not sign:
            raise SettingError(f"--budget: '{part}' is not of the form params=, steps= or minutes=")
        if kind not in _KINDS:
            raise SettingError(f"--budget: {unknown_name_message('kind', kind, _KINDS)}")
        if kind in found:
            raise SettingError(f"--budget gives {kind} twice")
        found[kind] = _amount(kind, value)
    if "steps" in found and "minutes" in found:
        raise SettingError("--budget: give either steps or minutes, not both")
    counts = {kind: int(found[kind]) for kind in ("params", "steps") if kind in found}
    return ComparisonBudget(**counts, minutes=found.get("minutes"))


def _amount(kind: str, text: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    amount = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if match and kind != "params" and match[2]:
        raise SettingError(f"--budget: {kind}={text} must be a plain number")
    if amount <= 0 or (kind != "minutes" and amount != int(amount)):
        example = {"params": "500k or 2.5M", "steps": "100", "minutes": "10"}[kind]
        raise SettingError(f"--budget: {kind}={text} must be a positive number such as {example}")
    return amount


_GOVERNED = {
    "model": "--model",
    "data": "--data",
    "eval_data": "--eval",
    "eval_split": "--eval",
    "output": "--output",
    "method": "--methods",
    "method_settings": "--methods",
    "seed": "--seeds",
    "max_steps": "--budget steps=N",
    "eval_every": "nothing: models are scored once, when they are trained",
    "eval_at_start": "nothing: the base model is scored once for all",
}
"""Settings of a run that the comparison decides, and what to say instead."""


class CompareSettings(EvaluationSettings):
    """One comparison, complete."""

    model: str
    """Base model: an alias such as smollm2-135m, a folder, or a hub id."""

    data: str
    """Training rows, as for `gossamer tune`; all methods see the same in the same order."""

    eval: str
    """Rows to score the models on, given like the training rows; never trained on."""

    methods: list[str]
    """Methods to compare, such as lora,dora,full. An entry may carry settings of the method and
    learning_rate, scheduler, warmup, weight_decay or max_grad_norm: lora:rank=4,alpha=8. Commas or
    spaces separate entries; `none` scores the base model alone. With several rates,
    lora:learning_rate=[1e-4,1e-3], a method is trained with each, and the best one is told."""

    budget: list[str] = Field(default=[])
    """What each method may spend: params=500k (each method takes the nearest size below),
    steps=100, minutes=10 (as many steps as fit by the method's own speed). Unset: three passes over
    the rows."""

    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = Field(
        default=[0]
    )
    """Seeds; each method is trained once with each of them, and mean and spread are told."""

    run: dict[str, Any] = Field(default={})
    """Settings of all runs alike, such as batch_size or max_length."""

    output: str
    """Folder of the comparison: results, table, plots, and each adapter."""

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = {k: str(v) if isinstance(v, PathLike) else v for k, v in values.items()}
        for name in ("methods", "budget"):
            if isinstance(values.get(name), str):
                values[name] = [values[name]]
        if isinstance(values.get("seeds"), int):
            values["seeds"] = [values["seeds"]]
        return values

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice; the same seed gives the same result")
        return seeds

    def entries(self) -> list[Entry]:
        """The methods to compare; empty: only the base model is scored."""
        return parse_entries(self.methods)

    def limits(self) -> ComparisonBudget:
        """The budget, parsed."""
        return parse_budget(self.budget)

    def check(self) -> None:
        """Raise what can be told without a model, of settings and of names."""
        self.check_values()
        require_known(self.model)
        for name in (self.data, self.eval):
            find_file(name)

    def check_values(self) -> None:
        """Raise what can be told of the settings alone."""
        limits = self.limits()
        for key in self.run:
            _check_run_setting(key, limits)
        for entry in self.entries():
            self.run_settings(entry, seed=self.seeds[0], output="")

    def run_settings(
        self,
        entry: Entry,
        *,
        seed: int,
        output: str,
        method_settings: Any = None,
        steps: Any = None,
    ) -> RunSettings:
        """The run of `entry` with `seed`; `method_settings` and `steps` as the plan chose them."""
        limits = self.limits()
        return RunSettings.parse(
            {
                **self.run,
                **entry.run,
                "model": self.model,
                "data": self.data,
                "output": output,
                "method": entry.method,
                "method_settings": method_settings or entry.settings,
                "seed": seed,
                "max_steps": steps or limits.steps,
                "save_total_limit": self.run.get("save_total_limit", 1),
            },
            where=f"'{entry.label}'",
        )


def _check_run_setting(key: str, limits: ComparisonBudget) -> None:
    if key in _GOVERNED:
        raise SettingError(f"--set {key}: a comparison sets it itself; use {_GOVERNED[key]}")
    if key not in RunSettings.model_fields:
        known = sorted(set(RunSettings.model_fields) - set(_GOVERNED))
        message = unknown_name_message("setting", key, known)
        raise SettingError(
            f"--set: {message}; settings of a method belong to its entry: lora:{key}=..."
        )
    if key == "epochs" and (limits.steps or limits.minutes):
        raise SettingError("--set epochs: the budget gives the number of steps; leave one out")
