"""Finds what a finished run has learnt, for another one that goes on from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossamer.errors import SettingError
from gossamer.methods import Method, MethodContext
from gossamer.training.outputs.checkpoint import checkpoint_folder
from gossamer.training.outputs.run_folder import is_run
from gossamer.training.outputs.run_record import FILE, read_config
from gossamer.training.settings import RunSettings

_ADDING_TO_BASE = ("flora", "fedex")
"""Aggregations whose last factors are but a part of what a federated run has learnt."""


def learnt_by(settings: RunSettings, method: Method[Any], context: MethodContext) -> Path | None:
    """The folder from which `method` can restore what the run `start_from` has learnt: the
    checkpoint of its result, or the result itself; None: the run starts as its method does.

    Raises `SettingError` if that run is none, or is of another method, method settings or base
    model; it names what differs.
    """
    if settings.start_from is None:
        return None
    run = Path(settings.start_from)
    if not is_run(run):
        raise SettingError(f"start_from '{run}' holds no run (no {FILE}); give a run's folder")
    values, sections = read_config(run / FILE)
    result = sections.get("result")
    if result is None:
        raise SettingError(f"start_from '{run}' is not finished; go on with it by --resume first")
    if values.get("method") != method.name:
        raise SettingError(
            f"start_from '{run}' was learnt with method '{values.get('method')}', this run has "
            f"'{method.name}'; use the same method, or merge that adapter into its base first"
        )
    _check_method_settings(run, method, values.get("method_settings") or {})
    if sections.get("recorded", {}).get("base_fingerprint") != context.base_fingerprint:
        raise SettingError(f"start_from '{run}' was learnt on another base model")
    if len(method.stages(context)) > 1:
        raise SettingError(
            f"start_from: method '{method.name}' learns in stages, which begin with the base; "
            "merge that adapter into its base first"
        )
    if values.get("aggregation") in _ADDING_TO_BASE:
        raise SettingError(
            f"start_from '{run}' was learnt with aggregation {values['aggregation']}, which adds "
            "to the base: its adapter is of another rank; merge it into its base (gossamer "
            f"adapters merge {run} --output DIR) and learn on that model"
        )
    checkpoint = checkpoint_of_result(run)
    return checkpoint if checkpoint.is_dir() else run


def checkpoint_of_result(run: Path) -> Path:
    """Where the checkpoint of the result of the finished `run` is, if it was kept."""
    _, sections = read_config(run / FILE)
    result = sections["result"]
    # A federated run counts rounds, and its result is that of the last one.
    step = result.get("best_step") or result.get("steps") or result.get("rounds")
    return checkpoint_folder(run, step)


def _check_method_settings(run: Path, method: Method[Any], values: Mapping[str, Any]) -> None:
    """Raise `SettingError` if the method of `run` had other settings: its adapter would not fit, or
    would do something else here."""
    before = method.settings_type.parse(values, where=str(run / FILE)).model_dump()
    now = method.settings.model_dump()
    differing = [name for name in now if now[name] != before[name]]
    if differing:
        told = ", ".join(f"{name} {before[name]!r} (here {now[name]!r})" for name in differing)
        raise SettingError(
            f"start_from '{run}' was learnt with {told}; give this run the same settings of "
            f"method '{method.name}'"
        )
