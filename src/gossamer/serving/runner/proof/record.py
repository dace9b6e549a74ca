"""Remembers on disk what was proved, so that a model is compared once and not at each start."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from gossamer.basemodel.cache import cache_home
from gossamer.files import write_whole
from gossamer.version import VERSION

MOST = 64
"""Proofs that are kept; the oldest go first."""
_ROOT = Path(__file__).parents[3]
_OURS = ("serving/runner", "kernels/paged_attention", "kernels/dense_linear")
# Which way to attend is changed by ourselves.
_IDLE = ("_name_or_path", "_attn_implementation", "transformers_version")


def digest(model: Any, *facts: str) -> str:
    """Name what a proof for `model` depends on: its config, its class, our code, and `facts`."""
    import torch
    import transformers

    config = {name: value for name, value in model.config.to_dict().items() if name not in _IDLE}
    hashed = hashlib.sha256()
    for text in (
        json.dumps(config, sort_keys=True, default=str),
        f"{VERSION} {transformers.__version__} {torch.__version__}",
        *facts,
    ):
        hashed.update(text.encode() + b"\0")
    for path in (*_files_of(type(model)), *_our_files()):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def read(name: str) -> list[str] | None:
    """Return the layers on which no adapter acts, if a proof of this digest is remembered."""
    try:
        found = json.loads((_folder() / name).read_bytes())
    except (OSError, ValueError):
        return None
    is_list = isinstance(found, list) and all(isinstance(path, str) for path in found)
    return found if is_list else None


def remember(name: str, left_out: list[str]) -> None:
    """Keep what was proved; where nothing can be kept, it is proved again the next time."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, json.dumps(left_out))
        kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MOST]:
            path.unlink(missing_ok=True)
    except OSError:
        return


def _folder() -> Path:
    return cache_home() / "proofs"


def _files_of(model_class: type) -> list[Path]:
    """The files of a model's class and of those that it is derived from, transformers' own."""
    found = (inspect.getsourcefile(each) for each in model_class.__mro__ if each is not object)
    return sorted({Path(path) for path in found if path and "/models/" in Path(path).as_posix()})


def _our_files() -> list[Path]:
    return sorted(path for name in _OURS for path in (_ROOT / name).rglob("*.py"))
