"""`--budget params=500k steps=100`: what each method may spend."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gossamer.errors import SettingError, unknown_name_message

_KINDS = ("params", "steps", "minutes")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmb]?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """None: no limit of that kind."""

    params: int | None = None
    """Trained parameters of each method; each takes the nearest size below."""
    steps: int | None = None
    """Optimizer steps of each run."""
    minutes: float | None = None
    """Training time of each run; each takes as many steps as fit by its own measured speed."""


def parse_budget(texts: Sequence[str]) -> Budget:
    """The budget that `texts` (`["params=500k", "steps=100"]`) spell; raises `SettingError`."""
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
    return Budget(**counts, minutes=found.get("minutes"))


def _amount(kind: str, text: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    amount = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if match and kind != "params" and match[2]:
        raise SettingError(f"--budget: {kind}={text} must be a plain number")
    if amount <= 0 or (kind != "minutes" and amount != int(amount)):
        example = {"params": "500k or 2.5M", "steps": "100", "minutes": "10"}[kind]
        raise SettingError(f"--budget: {kind}={text} must be a positive number such as {example}")
    return amount
