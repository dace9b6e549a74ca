"""Limits how much of an untrusted adapter is read."""

from pydantic import Field

from gossamer.settings import Settings

MOST_PLACES = 1 << 31
"""Rows, columns and sizes stay below this: kernels count in 32 bits."""


class AdapterLimits(Settings):
    """Limits of what reading an adapter's files may take; ordinary adapters stay far below."""

    max_config_mib: float = Field(default=4.0, gt=0, le=64)
    """MiB of an adapter_config.json at most."""
    max_config_values: int = Field(default=100_000, ge=1)
    """Values in it at most: names, numbers, lists and objects together."""
    max_config_depth: int = Field(default=16, ge=1, le=100)
    """Lists and objects of it within each other at most."""
    max_patterns: int = Field(default=4096, ge=0)
    """Keys of rank_pattern at most, and of alpha_pattern."""
    max_pattern_chars: int = Field(default=1000, ge=1)
    """Characters of such a key at most."""
    max_pattern_steps: int = Field(default=1_000_000_000, ge=1)
    """Work of finding the keys that apply to an adapter's layers at most: the size of all patterns
    times the characters of all names (a billion is seconds at worst)."""
    max_header_mib: float = Field(default=8.0, gt=0, le=100)
    """MiB of the header of an adapter_model.safetensors at most."""
    max_tensors: int = Field(default=32_768, ge=1)
    """Tensors in it at most."""
    max_name_chars: int = Field(default=512, ge=1)
    """Characters of a tensor's name at most."""
    max_dimensions: int = Field(default=8, ge=1, le=64)
    """Dimensions of a tensor at most."""
    max_weights_gib: float = Field(default=16.0, gt=0)
    """GiB of the weights of an adapter at most; what cannot fit into a server's memory is refused
    before that."""
    max_block_rows: int = Field(default=4_194_304, ge=1)
    """Rows of all blocks of a sparse adapter (SMT) at most."""
    max_read_seconds: float = Field(default=120.0, gt=0)
    """Seconds that reading an adapter's weights may take; one whose disk hangs is given up half a
    minute later."""
