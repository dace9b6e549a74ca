"""`adapter_model.safetensors`: judged by its header, then read whole."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from gossamer.adapters.config import WEIGHTS_NAME
from gossamer.adapters.layout import CONFIG_NAME
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_file import (
    OpenSafetensors,
    SafetensorsFile,
    open_safetensors,
)
from gossamer.adapters.reading.safetensors_header import Header
from gossamer.errors import AdapterFormatError, AdapterNotFoundError

_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.ckpt")
BASE_KEY = "gossamer_base"
"""Metadata key of the fingerprint of the base model that an adapter was trained on."""


@dataclass(frozen=True)
class AdapterWeights:
    """All tensors of an adapter, as stored."""

    file: SafetensorsFile

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """By name; views of the file."""
        return self.file.tensors()


@dataclass(frozen=True)
class OpenWeights:
    """The weights file of an adapter of which only the header has been read."""

    file: OpenSafetensors

    @property
    def header(self) -> Header:
        """Which tensors there are."""
        return self.file.header

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the base model, if the adapter carries one."""
        return self.header.metadata.get(BASE_KEY)

    def read(self) -> AdapterWeights:
        """All tensors; the memory is ours, so that later changes of the file do no harm."""
        return AdapterWeights(self.file.read())


def weights_path(folder: Path) -> Path:
    """Path of the weights file.

    Raises:
        AdapterFormatError: there is only a pickle, or nothing.
    """
    path = folder / WEIGHTS_NAME
    if path.is_file():
        return path
    for name in _PICKLES:
        if (folder / name).is_file():
            raise AdapterFormatError(
                f"adapter {folder.name} has pickled weights ({name}), which can run code; load it "
                "with PEFT where you trust it and save it again with save_pretrained"
            )
    if not (folder / CONFIG_NAME).is_file():
        raise AdapterNotFoundError(f"adapter folder {folder} has no {CONFIG_NAME}")
    raise AdapterFormatError(f"adapter {folder.name} has no {WEIGHTS_NAME}")


@contextmanager
def open_weights(folder: Path, limits: AdapterLimits) -> Iterator[OpenWeights]:
    """Open the weights file, so that it can be judged by its header before it is read.

    Raises:
        AdapterFormatError: no safetensors file, truncated, damaged, empty, or larger than `limits`
            allow.
        UnsupportedAdapterError: a number format other than those of `DTYPES`.
    """
    path = weights_path(folder)
    with open_safetensors(path, limits) as file:
        if not file.header.places:
            raise AdapterFormatError(f"{path} holds no tensors")
        yield OpenWeights(file)


def read_weights(folder: Path, limits: AdapterLimits | None = None) -> AdapterWeights:
    """Read all tensors of an adapter that one knows. Raises as `open_weights`."""
    with open_weights(folder, limits or AdapterLimits()) as weights:
        return weights.read()


def require_finite(name: str, weights: AdapterWeights) -> None:
    """Raise `AdapterFormatError` naming the first tensor with a NaN or an infinity."""
    findings = weights.file.findings
    if findings.is_finite:
        return
    elements = weights.file.elements()
    if elements is None or not _is_finite(elements):
        for key, tensor in weights.tensors.items():
            if not _is_finite(tensor):
                raise AdapterFormatError(
                    f"adapter {name}: tensor {key} has NaN or infinite values; its training "
                    "diverged, train again with a lower learning rate"
                )
    findings.is_finite = True


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # One pass without a temporary: both extremes are NaN if any entry is.
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())
