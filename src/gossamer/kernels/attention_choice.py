"""Chooses the kernels of attention, which another library may bring."""

import logging
from importlib.util import find_spec

import torch

from gossamer.errors import MissingExtraError, SettingError, UnknownNameError
from gossamer.kernels.paged_attention.batch import KvLayout

ATTENTIONS = ("auto", "triton", "flashinfer")

FLASHINFER_DTYPES = (torch.float16, torch.bfloat16)
"""What FlashInfer's kernels for tensor cores multiply, fp8 aside."""
FLASHINFER_HEADS = (64, 128, 256)
"""The widths of heads that it is tested with."""


def choose_attention(name: str, backend: str, layout: KvLayout, *, has_window: bool) -> str:
    """Return what `make_paged_attention` shall make: `backend`, or "flashinfer".

    `has_window`: a layer of the model sees a number of positions back only. Models that FlashInfer
    does not compute here take our kernels, which is told in the log. Raises `UnknownNameError`,
    `SettingError` if the backend is not a GPU's, or `MissingExtraError`.
    """
    if name not in ATTENTIONS:
        raise UnknownNameError.among("attention", name, ATTENTIONS)
    if name == "auto":
        return backend
    if backend != "triton":
        raise SettingError(
            f"attention '{name}' is for GPUs, and the kernel backend is '{backend}'; "
            "use attention 'auto'"
        )
    if name == "triton":
        return backend
    if find_spec("flashinfer") is None:
        raise MissingExtraError.of("attention 'flashinfer'", "flashinfer-python", "flashinfer")
    reason = _not_computed(layout, has_window=has_window)
    if reason:
        logging.getLogger(__name__).warning(
            "attention 'flashinfer' does not compute %s; our own kernels do it", reason
        )
        return backend
    return name


def _not_computed(layout: KvLayout, *, has_window: bool) -> str:
    """What of a model FlashInfer does not compute here; empty if it does all."""
    if layout.dtype not in FLASHINFER_DTYPES:
        return f"in {str(layout.dtype).removeprefix('torch.')}, only in float16 and bfloat16"
    if layout.head_dim not in FLASHINFER_HEADS:
        return f"heads of {layout.head_dim}, only of 64, 128 and 256"
    if layout.varies:
        return "layers with unlike numbers of key/value heads"
    return "sliding windows" if has_window else ""
