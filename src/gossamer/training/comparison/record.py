"""`compare.yaml`: the comparison that a folder belongs to; another one is refused there."""

from pathlib import Path
from typing import Any

import yaml

from gossamer.durable import write_whole
from gossamer.errors import SettingError
from gossamer.training.comparison.layout import SETTINGS
from gossamer.training.comparison.settings import CompareSettings

_HEAD = "# Asking for the same comparison again goes on with what is missing.\n"
# What may differ without a change to any result.
_FREE_TO_CHANGE = {"output"}


def open_folder(root: Path, settings: CompareSettings) -> None:
    """Make `root` the folder of `settings`, or go on with it.

    Raises `SettingError` if it holds another comparison, or something else.
    """
    if root.exists() and not root.is_dir():
        raise SettingError(f"--output {root} is a file; give a folder")
    recorded = _read(root)
    if recorded is None:
        if root.is_dir() and any(entry.name != ".lock" for entry in root.iterdir()):
            raise SettingError(
                f"--output {root} is not empty and holds no comparison; choose another folder"
            )
        _write(root, settings, {})
        return
    before = recorded.get("settings", {})
    now = settings.model_dump(mode="json")
    for name in sorted(set(now) - _FREE_TO_CHANGE):
        if before.get(name) != now[name]:
            raise SettingError(
                f"--output {root} holds a comparison with {name}={before.get(name)!r}, not "
                f"{now[name]!r}; ask for the same again to go on with it, or choose another folder"
            )


def check_facts(root: Path, settings: CompareSettings, facts: dict[str, Any]) -> None:
    """Note what the first plan found; raise `SettingError` if it no longer holds."""
    before = (_read(root) or {}).get("facts") or {}
    if not before:
        _write(root, settings, facts)
        return
    if before["base_fingerprint"] != facts["base_fingerprint"]:
        raise SettingError(
            f"base model '{settings.model}' has changed since the comparison in {root} began; "
            "choose another folder"
        )
    for name, digest in facts["data_sha256"].items():
        if before["data_sha256"].get(name, digest) != digest:
            raise SettingError(
                f"data file '{name}' has changed since the comparison in {root} began; choose "
                "another folder"
            )
    if before["steps"] != facts["steps"]:
        raise SettingError(
            f"{root / SETTINGS} was edited: the comparison began with {before['steps']} steps a "
            f"run, now they are {facts['steps']}; choose another folder"
        )


def read_facts(root: Path) -> dict[str, Any]:
    """What the first plan found."""
    return (_read(root) or {}).get("facts") or {}


def _write(root: Path, settings: CompareSettings, facts: dict[str, Any]) -> None:
    content = {"settings": settings.model_dump(mode="json"), "facts": facts}
    write_whole(root / SETTINGS, _HEAD + yaml.safe_dump(content, sort_keys=False))


def _read(root: Path) -> dict[str, Any] | None:
    path = root / SETTINGS
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise SettingError(f"{path} is damaged; choose another folder for the comparison")
    return content
