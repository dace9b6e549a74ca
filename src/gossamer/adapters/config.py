"""Read `adapter_config.json`."""

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossamer.adapters.patterns import check_keys, value_for
from gossamer.errors import AdapterFormatError, AdapterNotFoundError, UnsupportedAdapterError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """What the config of a LoRA adapter says. Fields have PEFT's meaning."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: tuple[str, ...] | str | None = None
    """Names, sorted; or one regular expression."""
    base_model_name_or_path: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole config file."""

    def rank_of(self, module: str) -> int:
        """Rank at the module path `module`, such as `model.layers.0.self_attn.q_proj`."""
        return value_for(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """Alpha at `module`."""
        return value_for(self.alpha_pattern, module, self.alpha)

    def scale_of(self, module: str) -> float:
        """s in W + s B A: alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def ranks_and_scales(self) -> Hashable:
        """Equal if `rank_of` and `scale_of` say the same of every module."""
        patterns = tuple(self.rank_pattern.items()), tuple(self.alpha_pattern.items())
        return self.rank, self.alpha, self.use_rslora, patterns


def read_raw(folder: Path) -> dict[str, Any]:
    """The content of the adapter's config, of whatever type.

    Raises:
        AdapterNotFoundError: no such folder, or no adapter in it.
        AdapterFormatError: not a JSON object that names a `peft_type`.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        what = "is no adapter: it has no" if folder.is_dir() else "does not exist; looked for"
        raise AdapterNotFoundError(f"adapter folder {folder} {what} {CONFIG_NAME}")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise AdapterFormatError(f"{path} is larger than {_MAX_CONFIG_BYTES >> 20} MiB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not valid JSON: {error}") from None
    except OSError as error:
        raise AdapterFormatError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(content, dict) or not isinstance(content.get("peft_type"), str):
        raise AdapterFormatError(f"{path} is not an adapter config: it names no peft_type")
    return content


def read_config(folder: Path) -> LoraSpec:
    """The config of a LoRA adapter (DoRA included), with types and ranges checked.

    Raises:
        AdapterNotFoundError, AdapterFormatError: as `read_raw`; or a field is malformed.
        UnsupportedAdapterError: another type of adapter than LoRA.
    """
    raw = read_raw(folder)
    if raw["peft_type"].upper() != "LORA":
        raise UnsupportedAdapterError(
            f"adapter {folder.name} is of type {raw['peft_type']}; only LoRA can be used here"
        )
    try:
        return parse_lora(raw)
    except AdapterFormatError as error:
        raise AdapterFormatError(f"{folder / CONFIG_NAME}: {error}") from None


def parse_lora(raw: Mapping[str, Any]) -> LoraSpec:
    """Build the spec from a config's content; raises `AdapterFormatError`."""
    return LoraSpec(
        rank=_rank("r", raw.get("r", 8)),
        alpha=_number("lora_alpha", raw.get("lora_alpha", 8)),
        rank_pattern={
            key: _rank(f"rank_pattern['{key}']", value)
            for key, value in _pattern(raw, "rank_pattern").items()
        },
        alpha_pattern={
            key: _number(f"alpha_pattern['{key}']", value)
            for key, value in _pattern(raw, "alpha_pattern").items()
        },
        use_rslora=_flag(raw, "use_rslora"),
        use_dora=_flag(raw, "use_dora"),
        target_modules=_targets(raw.get("target_modules")),
        base_model_name_or_path=_text(raw, "base_model_name_or_path"),
        raw=raw,
    )


def _rank(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AdapterFormatError(f"{name} = {value!r}: a rank must be a whole number of 1 or more")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterFormatError(f"{name} = {value!r}: must be a finite number")
    return float(value)


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise AdapterFormatError(f"{name} = {value!r}: must be true or false")
    return bool(value)


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise AdapterFormatError(f"{name} = {value!r}: must be a string")
    return value


def _pattern(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterFormatError(f"{name} = {value!r}: must be an object")
    check_keys(name, value)
    return value


def _targets(value: Any) -> tuple[str, ...] | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(sorted(value))
    raise AdapterFormatError(f"target_modules = {value!r}: must be names or one pattern")
