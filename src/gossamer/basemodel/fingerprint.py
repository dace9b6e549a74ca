"""A quick identity of base weights, to tell whether an adapter was made for them."""

import hashlib
import json
from pathlib import Path

from gossamer.basemodel.files import read_config_json, safetensors_header, weight_files

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
