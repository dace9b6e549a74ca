"""The file with keys and tenants: YAML that people may edit, written whole or not at all.

A file suffices: keys change rarely, are few beside the requests, and a running server sees an edit
at its next call. Nothing that is wrong with the file reaches those who are served: the log tells,
and what was read before stays valid. Hashes alone are in it; nevertheless it is readable by its
owner only.
"""

import contextlib
import logging
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gossamer.errors import SettingError
from gossamer.files import storing, write_whole
from gossamer.serving.bounded_yaml import load_bounded
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.tenants import NO_LIMITS, TenantLimits
from gossamer.serving.keys import Caller, KeyFileSettings, TenantSettings

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""So often, at least, a changed file is noticed."""

MAX_BYTES = 4 * 2**20
"""The largest size of a key file: some twenty thousand keys."""


class KeyFileUnreadableError(SettingError):
    """The system cannot give the file now; it may do so later without a change of the file."""


def read_keys(path: Path) -> KeyFileSettings:
    """The file's content; raises `SettingError` that names file and problem, whatever it is."""
    try:
        content = load_bounded(_read(path).decode("utf-8"))
        if not isinstance(content, dict):
            # An empty one too: an editor may be about to fill it.
            raise SettingError(f"{path} must hold 'tenants' and 'keys'")
        settings = KeyFileSettings.parse(content, where=str(path))
        _require_lists(path, content.get("tenants"))
    except KeyFileUnreadableError:
        raise
    except SettingError as error:
        raise SettingError(_one_line(error)) from None
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not valid YAML: {_one_line(error)}") from None
    except Exception as error:
        # Such as an impossible date: the libraries that read it have many ways to say no.
        raise SettingError(f"{path} cannot be understood: {_one_line(error)}") from None
    return settings


def _read(path: Path) -> bytes:
    try:
        # Not a pipe or a device, which could be read for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SettingError(f"the key file {path} is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise KeyFileUnreadableError(
            f"the key file {path} does not exist; make it with: gossamer keys add TENANT "
            f"--file {path}"
        ) from None
    except OSError as error:
        raise KeyFileUnreadableError(f"the key file {path} cannot be read: {error}") from None
    if len(content) > MAX_BYTES:
        raise SettingError(f"the key file {path} is larger than {MAX_BYTES // 2**20} MiB")
    return content


def _require_lists(path: Path, tenants: Any) -> None:
    """Refuse tenants without a list of adapters: it used to mean all of them."""
    silent = [name for name, fields in (tenants or {}).items() if "adapters" not in fields]
    if silent:
        others = f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""
        raise SettingError(
            f"{path}: tenant '{silent[0]}'{others} does not say which adapters it may use; write "
            "adapters: ['*'] for all, or adapters: [] for the base model only"
        )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:397]}..."


def change_keys(
    path: Path, change: Callable[[KeyFileSettings], KeyFileSettings], *, create: bool = False
) -> None:
    """Replace the file by its changed content; two changes at a time happen one after the other.

    Raises `SettingError`, also for a missing file unless it is to be created; `StorageError` if the
    disk refuses, and the file is then as it was.
    """
    from filelock import FileLock

    try:
        with storing(f"the key file {path} cannot be written"), FileLock(f"{path}.lock"):
            is_new = create and not path.exists()
            _write(path, change(KeyFileSettings() if is_new else read_keys(path)))
    except OSError as error:
        raise SettingError(f"the key file {path} cannot be written: {error}") from None


def _write(path: Path, keys: KeyFileSettings) -> None:
    content = {"tenants": {}, "keys": [], **keys.model_dump(mode="json", exclude_defaults=True)}
    for name, tenant in keys.tenants.items():
        content["tenants"][name]["adapters"] = list(tenant.adapters)
    write_whole(path, yaml.safe_dump(content, sort_keys=False), mode=0o600)


class KeyFile:
    """A key file in use. What is written to it counts from the next call on; from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises `SettingError` if it cannot be used now."""
        self._path = path
        self._lock = threading.Lock()
        self._version = self._look()
        self._looked = time.monotonic()
        self._told = ""
        self._threads = DaemonThreads("gossamer-keys", most=2)
        self._is_looking = False
        self._take(read_keys(path))

    def find(self, key: bytes) -> Caller | None:
        """Who calls with `key`, by the file as it is now. Reads it if it has changed: not for the
        event loop."""
        self._refresh()
        return self._content.find(key)

    def find_id(self, key_id: str) -> Caller | None:
        """Who calls with the key of that id, as `find`."""
        self._refresh()
        return self._content.find_id(key_id)

    def limits_of(self, tenant: str) -> TenantLimits:
        """What `tenant` may use. Asked for each token by the engine, so nothing is read here: the
        file is looked at now and then on another thread."""
        if time.monotonic() - self._looked > LOOK_SECONDS and not self._is_looking:
            self._is_looking = True
            # Without a thread to be had now, at another token.
            with contextlib.suppress(RuntimeError):
                self._threads.submit(self._look_again)
        return self._limits.get(tenant, NO_LIMITS)

    def tenants(self) -> Mapping[str, TenantSettings]:
        """All tenants, as they were at the last look."""
        return self._content.tenants

    def tenant(self, name: str) -> TenantSettings | None:
        """What the file says of a tenant; None if it is not listed. As quick as `limits_of`."""
        return self._content.tenants.get(name)

    def _look_again(self) -> None:
        try:
            self._refresh()
        finally:
            self._is_looking = False

    def _refresh(self) -> None:
        version = self._look()
        with self._lock:
            self._looked = time.monotonic()
            if version == self._version:
                return
            try:
                self._take(read_keys(self._path))
            except SettingError as error:
                # A slip of the pen must not lock everyone out, nor let anyone in.
                if str(error) != self._told:
                    log.error("the former keys stay valid: %s", error)
                self._told = str(error)
                if isinstance(error, KeyFileUnreadableError):
                    return
            else:
                self._told = ""
            self._version = version

    def _take(self, content: KeyFileSettings) -> None:
        self._content = content
        self._limits = {name: tenant.limits() for name, tenant in content.tenants.items()}

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
