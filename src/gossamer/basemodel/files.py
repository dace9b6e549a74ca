"""The files of a model folder: checked before transformers reads them, and identified."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gossamer.adapters.layout import CONFIG_FILE as ADAPTER_CONFIG
from gossamer.errors import CorruptModelError, ModelNotFoundError, UnsupportedModelError

_MAX_HEADER = 100_000_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def read_config_json(folder: Path) -> dict[str, Any]:
    """Return the content of `config.json`.

    Raises:
        ModelNotFoundError: no such folder.
        CorruptModelError: the file is missing or not a JSON object.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no model folder {folder}")
    path = folder / "config.json"
    if not path.is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            raise CorruptModelError(f"{folder} is an adapter, not a base model; give its base")
        raise CorruptModelError(f"{folder} is not a model folder: it has no config.json")
    content = _read_object(path)
    if not isinstance(content.get("model_type"), str):
        raise CorruptModelError(f"{path} names no model_type")
    return content


def require_tokenizer_files(folder: Path) -> None:
    """Raise `CorruptModelError` if the folder has no tokenizer."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise CorruptModelError(
            f"{folder} has no tokenizer (tokenizer.json); save the model's tokenizer there too"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model, in name order, each present and of full length.

    Raises:
        CorruptModelError: one is missing, truncated or not in the format.
        UnsupportedModelError: the weights are pickles.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        paths = [folder / "model.safetensors"]
    elif index.is_file():
        paths = _shards(folder, index)
    elif any(folder.glob("pytorch_model*.bin")):
        raise UnsupportedModelError(
            f"the weights in {folder} are pickle files (pytorch_model.bin), which can run code; "
            "save the model with save_pretrained to get safetensors"
        )
    else:
        raise CorruptModelError(f"{folder} has no weights (model.safetensors)")
    for path in paths:
        safetensors_header(path)
    return paths


def safetensors_header(path: Path) -> bytes:
    """The JSON header of a safetensors file whose length agrees with it.

    Raises:
        CorruptModelError: the file is missing, truncated or not in the format.
    """
    if not path.is_file():
        raise CorruptModelError(f"the weights file {path} is missing; fetch the model again")
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise CorruptModelError(f"{path} is truncated or not a safetensors file")
        header = stream.read(length)
    try:
        entries = json.loads(header)
        end = max(
            (entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"),
            default=0,
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise CorruptModelError(f"{path} is not a safetensors file: unreadable header") from None
    if size != 8 + length + end:
        raise CorruptModelError(
            f"{path} has {size:,} bytes instead of {8 + length + end:,}; fetch the model again"
        )
    return header


def open_to_readers(folder: Path) -> None:
    """Give all files the usual permissions; safetensors writes with those of a private file."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~umask)


def _shards(folder: Path, index: Path) -> list[Path]:
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptModelError(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise CorruptModelError(f"{index} names a file outside its folder: {name}")
    return [folder / name for name in names]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CorruptModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise CorruptModelError(f"{path} holds no JSON object")
    return content


_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16

# Fields that fix shape and meaning of the weights. Others change when a model is merely saved
# again by another version of transformers.
_CONFIG_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "tie_word_embeddings",
)


def fingerprint(folder: Path) -> str:
    """Hex SHA-256 over the shape of the model and samples of its weights files.

    Of each file, in name order: name, size, header, and 64 KiB at each of 64 evenly spaced
    offsets. That is a fingerprint, not a digest: two models that differ only between the samples
    get the same one. It takes milliseconds where a digest would take seconds, and tells apart
    what happens in practice: another model, another fine-tune, another number format.

    Raises:
        ModelNotFoundError, CorruptModelError, UnsupportedModelError: as `load_model`.
    """
    config = read_config_json(folder)
    digest = hashlib.sha256()
    fields = {name: config.get(name) for name in _CONFIG_FIELDS}
    digest.update(json.dumps(fields, sort_keys=True).encode())
    for path in weight_files(folder):
        _add_file(digest, path)
    return digest.hexdigest()


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    header = safetensors_header(path)
    size = path.stat().st_size
    digest.update(f"{path.name}\0{size}\0".encode())
    digest.update(header)
    start = 8 + len(header)
    last = max(start, size - _SAMPLE_BYTES)
    with path.open("rb") as stream:
        for index in range(_SAMPLES):
            stream.seek(start + (last - start) * index // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
