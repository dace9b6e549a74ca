"""Read `adapter_config.json`."""

import hashlib
import math
import re
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gossamer.adapters.fields import short
from gossamer.adapters.layout import CONFIG_FILE
from gossamer.adapters.patterns import Patterns, require_affordable
from gossamer.adapters.reading.json_text import count_values, depth, parse
from gossamer.adapters.reading.limits import MOST_PLACES, AdapterLimits
from gossamer.adapters.reading.regular_file import read_whole, unreadable
from gossamer.errors import AdapterFormatError, AdapterNotFoundError, UnsupportedAdapterError

_TYPE = re.compile(r"[\w-]{1,60}")


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

    @cached_property
    def ranks(self) -> Patterns[int]:
        """Return the patterns that say which modules have another rank."""
        return Patterns("rank_pattern", self.rank_pattern)

    @cached_property
    def alphas(self) -> Patterns[float]:
        """Return the patterns that say which modules have another alpha."""
        return Patterns("alpha_pattern", self.alpha_pattern)

    def rank_of(self, module: str) -> int:
        """Return the rank at the path `module`, such as `model.layers.0.mlp.up_proj`."""
        return self.ranks.value_for(module, self.rank)

    def alpha_of(self, module: str) -> float:
        """Return alpha at the module path `module`."""
        return self.alphas.value_for(module, self.alpha)

    def scale_of(self, module: str) -> float:
        """Return s in W + s B A: alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    def require_affordable(self, modules: Collection[str], limits: AdapterLimits) -> None:
        """Raise `AdapterFormatError` if asking for all `modules` would take too long."""
        require_affordable((self.ranks, self.alphas), modules, limits)

    @property
    def ranks_and_scales(self) -> Hashable:
        """Return a key that is equal if `rank_of` and `scale_of` say the same of every module."""
        own = self.rank, self.alpha, self.use_rslora
        if not self.rank_pattern and not self.alpha_pattern:
            return own
        # Patterns may be long, and what follows from a file's header is kept for long.
        text = repr((list(self.rank_pattern.items()), list(self.alpha_pattern.items())))
        return own, hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def read_config(folder: Path, limits: AdapterLimits | None = None) -> dict[str, Any]:
    """Read and parse the config of an adapter, of whatever type.

    Raises:
        AdapterNotFoundError: no such folder, or no adapter in it.
        AdapterFormatError: not a JSON object that names a `peft_type`, or more than `limits` allow.
    """
    limits = limits or AdapterLimits()
    path = folder / CONFIG_FILE
    most = int(limits.max_config_mib * (1 << 20))
    try:
        content = read_whole(path, most)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        what = "is no adapter: it has no" if folder.is_dir() else "does not exist; looked for"
        raise AdapterNotFoundError(f"adapter folder {folder} {what} {CONFIG_FILE}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if len(content) > most:
        raise AdapterFormatError(f"{path} has more than the {most:,} bytes of max_config_mib")
    config = _parsed(path, content, limits)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterFormatError(f"{path} is not an adapter config: it names no peft_type")
    if not _TYPE.fullmatch(config["peft_type"]):
        raise AdapterFormatError(
            f"{path}: peft_type = {short(config['peft_type'])} is no name of a type"
        )
    return config


def _parsed(path: Path, content: bytes, limits: AdapterLimits) -> Any:
    count = count_values(content)
    if count > limits.max_config_values:
        raise AdapterFormatError(
            f"{path} has {count:,} values, more than the {limits.max_config_values:,} of "
            "max_config_values"
        )
    try:
        config = parse(content)
    except ValueError as error:
        raise AdapterFormatError(f"{path} is not valid JSON: {error}") from None
    if (levels := depth(config)) > limits.max_config_depth:
        raise AdapterFormatError(
            f"{path} is nested {levels} deep, more than the {limits.max_config_depth} of "
            "max_config_depth"
        )
    return config


def lora_spec(
    folder: Path, config: Mapping[str, Any], limits: AdapterLimits | None = None
) -> LoraSpec:
    """Check types and ranges in the config of a LoRA adapter (DoRA included).

    `config` is what `read_config` returned for `folder`.

    Raises:
        AdapterFormatError: a field is malformed.
        UnsupportedAdapterError: another type of adapter than LoRA.
    """
    if config["peft_type"].upper() != "LORA":
        raise UnsupportedAdapterError(
            f"adapter {folder.name} is of type {config['peft_type']}; only LoRA can be used here"
        )
    try:
        return parse_lora(config, limits)
    except AdapterFormatError as error:
        raise AdapterFormatError(f"{folder / CONFIG_FILE}: {error}") from None


def parse_lora(raw: Mapping[str, Any], limits: AdapterLimits | None = None) -> LoraSpec:
    """Build the spec from a config's content; raises `AdapterFormatError`."""
    limits = limits or AdapterLimits()
    spec = LoraSpec(
        rank=_rank("r", raw.get("r", 8)),
        alpha=_number("lora_alpha", raw.get("lora_alpha", 8)),
        rank_pattern={
            key: _rank(f"rank_pattern['{key}']", value)
            for key, value in _pattern(raw, "rank_pattern", limits).items()
        },
        alpha_pattern={
            key: _number(f"alpha_pattern['{key}']", value)
            for key, value in _pattern(raw, "alpha_pattern", limits).items()
        },
        use_rslora=_flag(raw, "use_rslora"),
        use_dora=_flag(raw, "use_dora"),
        target_modules=_targets(raw.get("target_modules")),
        base_model_name_or_path=_text(raw, "base_model_name_or_path"),
        raw=raw,
    )
    _ = spec.ranks, spec.alphas  # made for good, and what is wrong with them is told now
    return spec


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value < MOST_PLACES:
        raise AdapterFormatError(
            f"{name} = {short(value)}: a rank must be a whole number from 1 to 2^31 - 1"
        )
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise AdapterFormatError(f"{name} = {short(value)}: must be a finite number")
    return float(value)


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise AdapterFormatError(f"{name} = {short(value)}: must be true or false")
    return bool(value)


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise AdapterFormatError(f"{name} = {short(value)}: must be a string")
    return value


def _pattern(raw: Mapping[str, Any], name: str, limits: AdapterLimits) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterFormatError(f"{name} = {short(value)}: must be an object")
    if len(value) > limits.max_patterns:
        raise AdapterFormatError(
            f"{name} has {len(value)} keys, more than the {limits.max_patterns} of max_patterns"
        )
    for key in value:
        if len(key) > limits.max_pattern_chars:
            raise AdapterFormatError(
                f"{name}: the pattern {short(key)} has {len(key)} characters, more than the "
                f"{limits.max_pattern_chars} of max_pattern_chars"
            )
    return value


def _targets(value: Any) -> tuple[str, ...] | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(sorted(value))
    raise AdapterFormatError(f"target_modules = {short(value)}: must be names or one pattern")
