"""All that a model learns, by name, for checkpoints of methods whose adapter files hold less."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FILE = "learnt.safetensors"
_LEARNT, _MORE = "learnt.", "more."


def write_learnt(model: Any, folder: Path, more: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write every weight of `model` that learns, and the tensors `more`, into `folder`."""
    tensors = {f"{_LEARNT}{n}": p for n, p in model.named_parameters() if p.requires_grad}
    tensors |= {f"{_MORE}{name}": tensor for name, tensor in (more or {}).items()}
    # A clone each: safetensors refuses tensors that share memory.
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, folder / FILE)


def read_learnt(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Set the weights of `model` to those in `folder`; returns what was given as `more`."""
    stored = load_file(folder / FILE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(stored[_LEARNT + name])
    return {k.removeprefix(_MORE): t for k, t in stored.items() if k.startswith(_MORE)}
