"""The file with keys and tenants: YAML that people may edit, written whole or not at all.

A file suffices: keys change rarely, are few beside the requests, and a running server sees an edit
at its next call. Hashes alone are in it; nevertheless it is readable by its owner only.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from gossamer.errors import SettingError
from gossamer.serving.keys import Caller, KeyFileSettings
from gossamer.serving.scheduling.tenants import NO_LIMITS, TenantLimits

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""So often, at least, a changed file is noticed."""


def read_keys(path: Path) -> KeyFileSettings:
    """The file's content; raises `SettingError` that names file and problem."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(
            f"the key file {path} does not exist; make it with: gossamer keys add TENANT "
            f"--file {path}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the key file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content or {}, dict):
        raise SettingError(f"{path} must hold 'tenants' and 'keys'")
    return KeyFileSettings.parse(content or {}, where=str(path))


def change_keys(
    path: Path, change: Callable[[KeyFileSettings], KeyFileSettings], *, create: bool = False
) -> None:
    """Replace the file by its changed content; two changes at a time happen one after the other.

    Raises `SettingError`, also for a missing file unless it is to be created.
    """
    from filelock import FileLock

    try:
        with FileLock(f"{path}.lock"):
            is_new = create and not path.exists()
            _write(path, change(KeyFileSettings() if is_new else read_keys(path)))
    except OSError as error:
        raise SettingError(f"the key file {path} cannot be written: {error}") from None


def _write(path: Path, keys: KeyFileSettings) -> None:
    content = keys.model_dump(mode="json", exclude_defaults=True)
    content = {"tenants": {}, "keys": [], **content}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class KeyFile:
    """A key file in use. What is written to it counts from the next call on; from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises `SettingError` if it cannot be used now."""
        self._path = path
        self._lock = threading.Lock()
        self._version = self._look()
        self._looked = time.monotonic()
        self._take(read_keys(path))

    def find(self, key: bytes) -> Caller | None:
        """Who calls with `key`."""
        self._refresh()
        return self._content.find(key)

    def limits_of(self, tenant: str) -> TenantLimits:
        """What `tenant` may use; asked for each token, so the file is looked at now and then."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._refresh()
        return self._limits.get(tenant, NO_LIMITS)

    def _refresh(self) -> None:
        version = self._look()
        with self._lock:
            self._looked = time.monotonic()
            if version == self._version:
                return
            self._version = version
            try:
                self._take(read_keys(self._path))
            except SettingError as error:
                # A slip of the pen must not lock everyone out, nor let anyone in.
                log.error("the former keys stay valid: %s", error)

    def _take(self, content: KeyFileSettings) -> None:
        self._content = content
        self._limits = {name: tenant.limits() for name, tenant in content.tenants.items()}

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
