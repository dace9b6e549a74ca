"""Chooses where a run computes, and in which number format."""

import os
from typing import Any

import torch

from gossamer.basemodel.support import default_dtype
from gossamer.errors import SettingError
from gossamer.training.processes.launch import local_rank


def choose_device(wanted: str, *, processes: int = 1) -> str:
    """Choose "cpu" or this process's "cuda:N".

    Raises `SettingError` if a GPU is wanted and there is none, or if there are fewer than the
    processes on this machine.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        if not torch.cuda.is_available():
            raise SettingError("device 'cuda': no GPU is visible to torch; use device 'cpu'")
        index, count = local_rank(), torch.cuda.device_count()
        # All that torchrun starts here, or that this process is going to start.
        here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        if here > count:
            raise SettingError(
                f"processes={here}, but torch sees {count} GPUs here; start at most {count}, or "
                "train on the CPU with device=cpu"
            )
        return f"cuda:{index}"
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
