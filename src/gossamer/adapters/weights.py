"""`adapter_model.safetensors`: judged by its header, then read whole."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gossamer.adapters.layout import CONFIG_FILE, PICKLE_FILES, WEIGHTS_FILE
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.adapters.reading.safetensors_file import (
    OpenSafetensors,
    SafetensorsFile,
    open_safetensors,
)
from gossamer.errors import AdapterFormatError, AdapterNotFoundError, UnsupportedAdapterError

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def weights_path(folder: Path) -> Path:
    """Find the weights file of an adapter.

    Raises:
        AdapterFormatError: there is only a pickle, or nothing.
    """
    path = folder / WEIGHTS_FILE
    if path.is_file():
        return path
    for name in PICKLE_FILES:
        if (folder / name).is_file():
            raise AdapterFormatError(
                f"adapter {folder.name} has pickled weights ({name}), which can run code; load it "
                "with PEFT where you trust it and save it again with save_pretrained"
            )
    if not (folder / CONFIG_FILE).is_file():
        raise AdapterNotFoundError(f"adapter folder {folder} has no {CONFIG_FILE}")
    raise AdapterFormatError(f"adapter {folder.name} has no {WEIGHTS_FILE}")


@contextmanager
def open_weights(folder: Path, limits: AdapterLimits) -> Iterator[OpenSafetensors]:
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
        yield file


def read_weights(folder: Path, limits: AdapterLimits | None = None) -> SafetensorsFile:
    """Read all tensors of a trusted adapter. Raises as `open_weights`."""
    with open_weights(folder, limits or AdapterLimits()) as file:
        return file.read()


def require_number_format(name: str, key: str, dtype: torch.dtype) -> None:
    """Raise `UnsupportedAdapterError` unless `dtype` is float32, float16 or bfloat16."""
    if dtype not in _FLOATS:
        raise UnsupportedAdapterError(
            f"adapter {name}: {key} is stored as {dtype}; save it as float32, float16 or bfloat16"
        )


def require_finite(name: str, file: SafetensorsFile) -> None:
    """Raise `AdapterFormatError` naming the first tensor with a NaN or an infinity."""
    findings = file.findings
    if findings.is_finite:
        return
    elements = file.elements()
    if elements is None or not _is_finite(elements):
        for key, tensor in file.tensors().items():
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
