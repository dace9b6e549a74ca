"""The run record, `run.yaml`: settings and figures of a run, enough to repeat or resume it."""

import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from gossamer.errors import CheckpointError, SettingError
from gossamer.files import write_whole
from gossamer.training.settings import RunSettings
from gossamer.version import VERSION

FILE = "run.yaml"
TUNE, FEDERATE = "tune", "federate simulate"
"""The commands whose runs have a record."""
_SECTIONS = ("recorded", "result")
_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "liger-kernel",
)

# What may differ between a run and its continuation without a change to any loss.
_FREE_TO_CHANGE = {"output", "save_every", "save_total_limit", "log_every", "report_to", "samples"}


def recorded_facts(settings: RunSettings, *, base_fingerprint: str, **more: Any) -> dict[str, Any]:
    """Facts beside the settings: versions, hashes of the data files, the base's fingerprint.

    `more` is recorded too, but what is None.
    """
    files = [name for name in (settings.data, settings.eval_data) if name is not None]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_fingerprint": base_fingerprint,
        "data_sha256": {name: _sha256(Path(name)) for name in files if _is_file(name)},
        **{name: value for name, value in more.items() if value is not None},
        "versions": {"gossamer": VERSION, "python": platform.python_version(), **_versions()},
    }


def write_run_record(
    output: Path,
    settings: RunSettings,
    recorded: Mapping[str, Any],
    result: Mapping[str, Any] | None = None,
) -> None:
    """Write `run.yaml`, all or nothing. A run that has a `result` is over."""
    values = settings.model_dump(mode="json")
    first = {name: values[name] for name in ("model", "method", "data", "output")}
    content = {**first, **values, "recorded": dict(recorded)}
    if result is not None:
        content["result"] = dict(result)
    command = command_of(content)
    head = f"# Repeat this run: gossamer {command} --config {FILE} --output OTHER-FOLDER\n"
    write_whole(output / FILE, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def command_of(values: Mapping[str, Any]) -> str:
    """Tell by the settings of a run which command carries it out."""
    return FEDERATE if "aggregation" in values else TUNE


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a config file as (settings, the sections that a run adds); raises `SettingError`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(f"config file '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"config file '{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = f", line {line + 1}" if line is not None else ""
        raise SettingError(f"config file '{path}'{place}: not valid YAML") from None
    if not isinstance(content, dict):
        raise SettingError(f"config file '{path}' must hold 'setting: value' lines")
    sections = {name: content.pop(name) or {} for name in _SECTIONS if name in content}
    return content, sections


def changed_data(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Find data files whose content is not the recorded one, where both are known."""
    before, after = recorded.get("data_sha256", {}), now["data_sha256"]
    return [name for name, digest in after.items() if before.get(name, digest) != digest]


def check_continues(
    before: RunSettings,
    recorded: Mapping[str, Any],
    after: RunSettings,
    facts: Mapping[str, Any],
    *,
    finished: bool,
) -> None:
    """Raise `CheckpointError` unless `after` goes on with the run `before`, loss for loss."""
    old, new = before.model_dump(), after.model_dump()
    changed = {key for key in new if old[key] != new[key]} - _FREE_TO_CHANGE
    if "max_steps" in changed:
        _check_longer(before, after)
        changed.remove("max_steps")
        finished = False
    if changed:
        key = min(changed)
        raise CheckpointError(
            f"cannot resume with {key}={new[key]!r}: the run has {old[key]!r}; leave it as it was, "
            "or start a new run in another --output"
        )
    for name in changed_data(recorded, facts):
        raise CheckpointError(f"cannot resume: data file '{name}' has changed since the run began")
    if recorded.get("base_fingerprint") != facts["base_fingerprint"]:
        raise CheckpointError(f"cannot resume: base model '{after.model}' has changed")
    if finished:
        raise CheckpointError(
            f"the run in {after.output} is finished; there is nothing to resume. Use --overwrite, "
            "or another --output"
        )


def _check_longer(before: RunSettings, after: RunSettings) -> None:
    """Check a longer run: it is the same only if rates do not depend on the number of steps."""
    old, new = before.max_steps, after.max_steps
    if old is None or new is None or new < old:
        raise CheckpointError(f"cannot resume with max_steps={new}: the run has {old}")
    if after.scheduler != "constant" or 0 < after.warmup < 1:
        raise CheckpointError(
            f"cannot resume with max_steps={new} instead of {old}: with scheduler="
            f"{after.scheduler} and warmup={after.warmup} the learning rate depends on the number "
            "of steps. Only scheduler=constant with a warmup of 0 or of whole steps can go on"
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _is_file(name: str) -> bool:
    return Path(name).expanduser().is_file()


def _sha256(path: Path) -> str:
    with path.expanduser().open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
