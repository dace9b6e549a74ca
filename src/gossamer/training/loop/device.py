"""Chooses where a run computes, and in which number format."""

from typing import Any

import torch

from gossamer.basemodel.support import default_dtype
from gossamer.errors import SettingError


def choose_device(wanted: str) -> str:
    """Choose "cpu" or "cuda:0"; raises `SettingError` if a GPU is wanted and there is none."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        if not torch.cuda.is_available():
            raise SettingError("device 'cuda': no GPU is visible to torch; use device 'cpu'")
        return "cuda:0"
    return wanted


def choose_dtype(wanted: str, device: str) -> str:
    """Choose "float32" or "bfloat16"."""
    if wanted == "auto":
        return str(default_dtype(device)).removeprefix("torch.")
    return wanted


def peak_memory(device: str) -> int:
    """The most bytes this process held so far on `device` (on a CPU: resident memory)."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return process_peak()


def process_peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def count_parameters(model: Any) -> tuple[int, int]:
    """Count (trainable, all) parameters; packed 4-bit weights count as what they stand for."""
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel()
        if type(parameter).__name__ == "Params4bit":
            state = getattr(parameter, "quant_state", None)
            count = state.shape.numel() if state is not None else count * 2
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total
