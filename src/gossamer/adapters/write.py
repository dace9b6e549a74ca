"""Write an adapter folder that PEFT loads: whole or not at all, same input, same bytes."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save

from gossamer.adapters.config import LoraSpec, parse_lora
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.adapters.layout import BASE_KEY, CONFIG_FILE, PREFIX, WEIGHTS_FILE
from gossamer.adapters.weights import read_weights, weights_path
from gossamer.errors import AdapterFormatError, UsageError
from gossamer.files import replacing_folder, write_whole

Number = TypeVar("Number", int, float)


def write_low_rank(
    folder: Path,
    factors: Mapping[str, Factors],
    config: LoraSpec | Mapping[str, Any] | None = None,
    *,
    base_fingerprint: str | None = None,
    overwrite: bool = False,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write `factors` (by module path) as a LoRA adapter in PEFT's layout; returns `folder`.

    Without `config`, one is derived that gives each module its rank and scale. With
    `base_fingerprint`, the adapter is bound to the base model of that fingerprint. `beside` are
    further files of the folder, by name.

    Raises:
        AdapterFormatError: `config` contradicts the rank or scale of a module.
        UsageError: `folder` exists and `overwrite` is not set.
    """
    if not factors:
        raise AdapterFormatError("an adapter needs the factors of at least one module")
    fields = config.raw if isinstance(config, LoraSpec) else config
    fields = dict(fields) if fields is not None else derive_config(factors)
    _check_agreement(factors, parse_lora(fields))
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists; choose another folder or allow overwriting")
    tensors = {}
    for module in sorted(factors):
        tensors[f"{PREFIX}{module}.lora_A.weight"] = factors[module].a.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = factors[module].b.contiguous()
    metadata = {BASE_KEY: base_fingerprint} if base_fingerprint else {}
    _write_folder(folder, _config_text(fields), _safetensors(tensors, metadata), dict(beside or {}))
    return folder


def derive_config(factors: Mapping[str, Factors]) -> dict[str, Any]:
    """Derive a PEFT config that gives each module its rank and scale.

    The most frequent rank and alpha become the defaults, the others patterns by full path.
    """
    alphas = {module: pair.scale * pair.rank for module, pair in factors.items()}
    rank = _most_common([pair.rank for pair in factors.values()])
    alpha = _most_common(list(alphas.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {m: f.rank for m, f in sorted(factors.items()) if f.rank != rank},
        "alpha_pattern": {m: a for m, a in sorted(alphas.items()) if a != alpha},
        "target_modules": sorted(factors),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def bind_to_base(folder: Path, fingerprint: str) -> None:
    """Store the base model's fingerprint in the weights file of an adapter of any kind.

    The file is replaced in one step; its tensors stay as they are.

    Raises:
        AdapterNotFoundError, AdapterFormatError, UnsupportedAdapterError: as `read_weights`.
    """
    path = weights_path(folder)
    weights = read_weights(folder)
    noted = {**weights.header.metadata, BASE_KEY: fingerprint}
    write_whole(path, _safetensors(weights.tensors(), noted))


def _most_common(values: list[Number]) -> Number:
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))


def _check_agreement(factors: Mapping[str, Factors], spec: LoraSpec) -> None:
    for module, pair in factors.items():
        rank, scale = spec.rank_of(module), spec.scale_of(module)
        if pair.a.shape[0] != rank or pair.b.shape[1] != rank:
            raise AdapterFormatError(
                f"{module}: factors {list(pair.a.shape)} and {list(pair.b.shape)} do not have the "
                f"config's rank {rank}"
            )
        if abs(scale - pair.scale) > 1e-9 * max(1.0, abs(scale)):
            raise AdapterFormatError(
                f"{module}: the factors' scale {pair.scale} is not the config's {scale}"
            )


def _config_text(fields: Mapping[str, Any]) -> str:
    listed = {
        key: sorted(value) if isinstance(value, set | tuple) else value
        for key, value in fields.items()
    }
    for key in ("target_modules", "exclude_modules"):
        if isinstance(listed.get(key), list):
            listed[key] = sorted(listed[key])
    return json.dumps(listed, indent=2) + "\n"


def _safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its metadata in a fixed order, which the library does not promise."""
    data = save(dict(tensors))
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    ordered = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items())), **entries}
    header = json.dumps(ordered, separators=(",", ":")).encode()
    # The format asks for data that begins at a multiple of 8.
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _write_folder(folder: Path, config: str, weights: bytes, beside: Mapping[str, str]) -> None:
    with replacing_folder(folder) as finished:
        finished.mkdir()
        for name, text in beside.items():
            (finished / name).write_text(text, encoding="utf-8")
        (finished / WEIGHTS_FILE).write_bytes(weights)
        (finished / CONFIG_FILE).write_text(config, encoding="utf-8")
