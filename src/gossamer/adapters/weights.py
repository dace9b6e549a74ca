"""Read `adapter_model.safetensors` whole, checked."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, deserialize

from gossamer.adapters.config import CONFIG_NAME, WEIGHTS_NAME
from gossamer.errors import AdapterFormatError, AdapterNotFoundError, UnsupportedAdapterError

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.ckpt")
BASE_KEY = "gossamer_base"
"""Metadata key of the fingerprint of the base model that an adapter was trained on."""


@dataclass(frozen=True)
class AdapterWeights:
    """All tensors of an adapter, as stored."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the base model, if the adapter carries one."""
        return self.metadata.get(BASE_KEY)


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


def read_weights(folder: Path) -> AdapterWeights:
    """Read all tensors; the memory is ours, so that later changes of the file do no harm.

    Raises:
        AdapterFormatError: no safetensors file, truncated, damaged, or empty.
        UnsupportedAdapterError: a number format other than those of `DTYPES`.
    """
    path = weights_path(folder)
    try:
        data = path.read_bytes()
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise AdapterFormatError(f"{path} is truncated or damaged: {error}") from None
    except OSError as error:
        raise AdapterFormatError(f"cannot read {path}: {error.strerror}") from None
    tensors = {name: _tensor(path, name, entry) for name, entry in entries}
    if not tensors:
        raise AdapterFormatError(f"{path} holds no tensors")
    return AdapterWeights(tensors, read_metadata(data))


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, given its (valid) bytes."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__") or {})


def require_finite(name: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise `AdapterFormatError` naming the first tensor with a NaN or an infinity."""
    for key, tensor in tensors:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # One pass without a temporary: both extremes are NaN if any entry is.
        low, high = torch.aminmax(tensor)
        if not (math.isfinite(low.item()) and math.isfinite(high.item())):
            raise AdapterFormatError(
                f"adapter {name}: tensor {key} has NaN or infinite values; its training diverged, "
                "train again with a lower learning rate"
            )


def _tensor(path: Path, name: str, entry: dict[str, object]) -> torch.Tensor:
    dtype = DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise UnsupportedAdapterError(
            f"{path}: tensor {name} is stored as {entry['dtype']}; save it as F32, F16 or BF16"
        )
    shape = entry["shape"]
    data = entry["data"]
    assert isinstance(shape, list)
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)
