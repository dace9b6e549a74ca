"""The digest that identifies an adapter everywhere: caches, logs, the list of models."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gossamer.adapters.checks import is_harmless_init
from gossamer.adapters.reading.safetensors_file import Content
from gossamer.adapters.reading.safetensors_header import Header

# Fields that say how an adapter was trained or where it came from, not what it computes.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
        "eva_config", "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config",
        "megatron_core", "peft_version", "requires", "revision", "runtime_config", "task_type",
        "velora_config",
    }
)  # fmt: skip
# Order matters in these: the first key that matches a module wins.
_ORDERED = frozenset({"rank_pattern", "alpha_pattern"})


def digest_of(config: Mapping[str, Any], content: Content) -> str:
    """Hash what an adapter computes, the fields that matter and all tensors, to hex SHA-256.

    Independent of the order of lists that PEFT writes from sets, of the order and metadata of the
    weights file, and of fields that only tell how the adapter came about.
    """
    text = _canonical(config)
    # Configs may be long, and what is known of a file is kept for long.
    key = hashlib.sha256(text.encode()).digest()
    known = content.findings.digest(key)
    if known is None:
        known = _hash(text, content)
        content.findings.note_digest(key, known)
    return known


def _hash(config: str, content: Content) -> str:
    header = content.header
    names, pieces = header.once(_order, lambda: _order(header))
    digest = hashlib.sha256(json.dumps([config, names]).encode())
    for part in content.parts(pieces):
        digest.update(part)
    return digest.hexdigest()


def _order(header: Header) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Names, types and shapes of all tensors by name; and where their data lie, in that order.

    Neighbours are one piece: files are written in the order of names, as a rule.
    """
    places = sorted(header.places.items())
    contents = [(name, str(place.dtype), place.shape) for name, place in places]
    pieces: list[tuple[int, int]] = []
    for _, place in places:
        start = pieces.pop()[0] if pieces and pieces[-1][1] == place.start else place.start
        pieces.append((start, place.end))
    return json.dumps(contents), tuple(pieces)


def _canonical(config: Mapping[str, Any]) -> str:
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if name in _WITHOUT_EFFECT or name.startswith("gossamer_"):
            continue
        if name == "init_lora_weights" and is_harmless_init(value):
            continue
        if value is None or value is False or value in ("", [], {}):
            continue
        kept[name] = _plain(value, ordered=name in _ORDERED)
    return json.dumps(kept, sort_keys=True)


def _plain(value: Any, *, ordered: bool) -> Any:
    if isinstance(value, dict):
        pairs = [[key, _plain(item, ordered=ordered)] for key, item in value.items()]
        return pairs if ordered else sorted(pairs, key=lambda pair: str(pair[0]))
    if isinstance(value, list):
        return sorted((_plain(item, ordered=ordered) for item in value), key=json.dumps)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
