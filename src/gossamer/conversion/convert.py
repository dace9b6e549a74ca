"""From an adapter folder to one of plain LoRA; the work of `gossamer adapters convert`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.adapters.config import read_config
from gossamer.adapters.inspect import AdapterInfo, inspect
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.layout import BASE_KEY
from gossamer.adapters.reading.budget import Budget
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.source import AdapterSource
from gossamer.adapters.weights import open_weights
from gossamer.adapters.write import derive_config, write_low_rank
from gossamer.conversion.changes import changes
from gossamer.conversion.low_rank import LEAST_ERROR, Approximation, Change, approximate
from gossamer.errors import SettingError, UnsupportedAdapterError, UsageError
from gossamer.files import storing
from gossamer.machine import fit_threads
from gossamer.merging import base_of

RECORD_FILE = "conversion.json"
"""Says, in the folder that is written, of what adapter it was made and what was lost."""


@dataclass(frozen=True)
class Converted:
    """What became of one linear layer."""

    module: str
    rank: int
    error: float
    """Relative error of the change of the weight, in Frobenius norms; 0: exact."""


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    source: str
    """The adapter's name, as that of its folder."""
    method: str
    digest: str
    """Digest of the adapter that was converted."""
    exact: bool
    """Whether the factors are those that the adapter itself multiplies by."""
    error: float
    """Relative error of the changes of all layers together."""
    modules: tuple[Converted, ...]

    @property
    def worst(self) -> Converted:
        """The layer with the largest relative error."""
        return max(self.modules, key=lambda module: module.error)


def convert_to_lora(
    adapter: Path,
    output: Path,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    model: str | None = None,
    limits: AdapterLimits | None = None,
) -> Conversion:
    """Write to `output` a plain LoRA that does what `adapter` does, which PEFT alone can load.

    Where the adapter's change is one of low rank (LoRA and its kin, LaMDA, LoRTA), the LoRA is
    exact, and `rank` and `max_error` are not used. A sparse change (SHiRA, SMT, SLoRA, sparse_lora)
    becomes the nearest one of low rank: of `rank`, of the smallest rank whose relative error is at
    most `max_error`, or of at most `rank` with an error of at most `max_error`. The folder appears
    whole or not at all, with the errors in `conversion.json`.

    Raises:
        UsageError: `output` exists, or the base model is needed and not known.
        SettingError: neither of the two is given where one is needed, or both cannot be met.
        AdapterError, BaseModelError: either of the two cannot be used.
    """
    _check(output, rank, max_error)
    limits = limits or AdapterLimits()
    config = read_config(adapter, limits)
    info = inspect(adapter, limits)
    fit_threads()
    source = AdapterSource.read(adapter, config=config, budget=Budget(limits=limits))
    held = changes(source, lambda: base_of(adapter, config, model))
    parts = dict(_converted(source.name, held, rank, max_error))
    if not parts:
        raise UnsupportedAdapterError(f"adapter {adapter.name} changes nothing that could be LoRA")
    factors = {
        path: part if isinstance(part, Factors) else part.factors for path, part in parts.items()
    }
    conversion = _summary(info, parts)
    with storing(f"cannot write --output {output}"):
        write_low_rank(
            output,
            factors,
            {**derive_config(factors), "base_model_name_or_path": info.base},
            base_fingerprint=_fingerprint(adapter, limits),
            beside={RECORD_FILE: json.dumps(as_record(conversion), indent=2) + "\n"},
        )
    return conversion


def _check(output: Path, rank: int | None, max_error: float | None) -> None:
    if output.exists():
        raise UsageError(f"--output {output} exists; choose another folder")
    if rank is not None and rank < 1:
        raise SettingError(f"--rank {rank}: a rank is at least 1")
    if max_error is not None and not LEAST_ERROR <= max_error < 1:
        raise SettingError(
            f"--max-error {max_error:g}: the relative error must be from {LEAST_ERROR:g} to below 1"
        )


def _converted(
    name: str, held: Iterator[tuple[str, Change]], rank: int | None, max_error: float | None
) -> Iterator[tuple[str, Factors | Approximation]]:
    for path, change in held:
        if isinstance(change, Factors):
            yield path, change
            continue
        if rank is None and max_error is None:
            raise SettingError(
                f"adapter {name} changes single weights, which a LoRA holds only in part; say how "
                "good it must be: --rank R, --max-error E (such as 0.1), or both"
            )
        if change.any():
            part = approximate(change, rank=rank, max_error=max_error)
            _require_near(path, part, max_error)
            yield path, part


def _require_near(path: str, part: Approximation, max_error: float | None) -> None:
    if max_error is None or part.error <= max_error:
        return
    needed = 1 + next(i for i, error in enumerate(part.errors_by_rank) if error <= max_error)
    raise SettingError(
        f"--max-error {max_error:g}: at rank {part.factors.rank} the error of {path} is "
        f"{part.error:.3g}, and rank {needed} would be needed; raise --rank or --max-error"
    )


def _summary(info: AdapterInfo, parts: dict[str, Factors | Approximation]) -> Conversion:
    near = {path: part for path, part in parts.items() if isinstance(part, Approximation)}
    total = sum(part.total for part in near.values())
    modules = tuple(
        Converted(path, part.rank, 0.0)
        if isinstance(part, Factors)
        else Converted(path, part.factors.rank, part.error)
        for path, part in sorted(parts.items())
    )
    return Conversion(
        source=info.name,
        method=info.method,
        digest=info.digest,
        exact=not near,
        error=(sum(part.lost for part in near.values()) / total) ** 0.5 if near else 0.0,
        modules=modules,
    )


def as_record(conversion: Conversion) -> dict[str, Any]:
    """Return what `conversion.json` says."""
    return {**asdict(conversion), "worst": asdict(conversion.worst)}


def _fingerprint(adapter: Path, limits: AdapterLimits) -> str | None:
    """The base model's fingerprint that the adapter carries."""
    with open_weights(adapter, limits) as stored:
        return stored.header.metadata.get(BASE_KEY)
