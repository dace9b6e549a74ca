"""Places of fetched models on this machine, and the manifest that says what each one holds."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def cache_home() -> Path:
    """`$GOSSAMER_HOME`, else the folder `gossamer` in the user's cache folder."""
    chosen = os.environ.get("GOSSAMER_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return _user_cache() / "gossamer"


def models_folder() -> Path:
    """The folder that holds one sub-folder per fetched model."""
    return cache_home() / "models"


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    chosen = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path must be ignored.
    if chosen and Path(chosen).is_absolute():
        return Path(chosen)
    return Path.home() / ".cache"


FILE_NAME = "gossamer_model.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a fetched model folder should contain."""

    alias: str
    source: dict[str, Any]
    files: dict[str, dict[str, Any]]
    """File name -> {"size": bytes, "sha256": hex digest}."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(int(entry["size"]) for entry in self.files.values())


def write(folder: Path, *, alias: str, source: dict[str, Any]) -> Manifest:
    """Digest all files of `folder` and write its manifest."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != FILE_NAME
    }
    content = {"alias": alias, "source": source, "files": files}
    (folder / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Manifest(alias=alias, source=source, files=files)


def read(folder: Path) -> Manifest | None:
    """Return the manifest of `folder`; None if there is none or it cannot be read."""
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        return Manifest(
            alias=content["alias"], source=dict(content["source"]), files=dict(content["files"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_damage(folder: Path, manifest: Manifest, *, full: bool = False) -> str | None:
    """Say in words what differs from the manifest; None if nothing does.

    Compares sizes only (instant), or all bytes when `full` (about a second per GB).
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}"
        if full and file_sha256(path) != entry["sha256"]:
            return f"{name} differs from what was fetched"
    return None


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
