"""A result as a zip that is made while it is sent: the files of its folder, and no path of this
machine in them.

The folder's files are opened before the first byte, so a model that is deleted meanwhile is sent
whole. Weights are stored as they are: they do not get smaller.
"""

import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from gossamer.adapters.layout import CONFIG_FILE
from gossamer.errors import AdapterNotFoundError
from gossamer.jobs.figures import NAME as FIGURES
from gossamer.jobs.figures import figures
from gossamer.training.outputs.metrics import FILE as METRICS
from gossamer.training.outputs.metrics import read_metrics
from gossamer.training.outputs.run_folder import MODEL_CARD
from gossamer.training.outputs.run_record import FILE as RECORD

_PIECE_BYTES = 2**20
_ZIP64_BYTES = 2**31


def archive(folder: Path, label: str, portable: Mapping[str, str]) -> Iterator[bytes]:
    """Begin a zip of the files in `folder`, below a folder `label`; yields its bytes.

    `portable` has what is to stand instead of texts that mean something on this machine alone.
    Raises `AdapterNotFoundError` if there is nothing to send.
    """
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        texts: dict[str, bytes] = {}
        for path in sorted(folder.glob("[!.]*")):
            if not path.is_file():
                continue
            if path.name == METRICS:
                texts[FIGURES] = figures(read_metrics(folder))
            elif path.name in (CONFIG_FILE, MODEL_CARD, RECORD):
                texts[path.name] = _made_portable(path, portable).encode()
            else:
                files[path.name] = stack.enter_context(path.open("rb"))
        if not files:
            raise AdapterNotFoundError(f"the files of {label} have gone")
        opened = stack.pop_all()
    return _pieces(opened, label, files, texts)


def _pieces(
    opened: ExitStack, label: str, files: Mapping[str, BinaryIO], texts: Mapping[str, bytes]
) -> Iterator[bytes]:
    sink = ZipSink()
    with opened, zipfile.ZipFile(sink, "w") as packed:
        for name, content in texts.items():
            info = _info(f"{label}/{name}")
            packed.writestr(info, content, zipfile.ZIP_DEFLATED)
        yield sink.take()
        for name, file in files.items():
            info = _info(f"{label}/{name}")
            size = file.seek(0, 2)
            file.seek(0)
            with packed.open(info, "w", force_zip64=size >= _ZIP64_BYTES) as member:
                while piece := file.read(_PIECE_BYTES):
                    member.write(piece)
                    yield sink.take()
    yield sink.take()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, time.gmtime()[:6])
    info.external_attr = 0o644 << 16
    return info


def _made_portable(path: Path, portable: Mapping[str, str]) -> str:
    text = path.read_text(encoding="utf-8")
    # The longest first: one may be the beginning of another.
    for machine, instead in sorted(portable.items(), key=lambda item: -len(item[0])):
        text = text.replace(machine, instead)
    if path.name == RECORD:
        head = "".join(line for line in text.splitlines(True) if line.startswith("#"))
        content = _without_folders(yaml.safe_load(text))
        return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if path.name == CONFIG_FILE:
        return json.dumps(_without_folders(json.loads(text)), indent=2) + "\n"
    return text


def _without_folders(value: Any) -> Any:
    """Return `value` with the last part of each absolute path in it."""
    if isinstance(value, dict):
        return {_without_folders(key): _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


class ZipSink:
    """A file that can only be written, and emptied."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Take in the next bytes."""
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Do nothing: what was written is still to be taken."""

    def take(self) -> bytes:
        """Hand out what was written since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
