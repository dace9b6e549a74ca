"""Chooses the backend that computes; one asked for by name is an error where it cannot run."""

import torch

from gossamer.errors import SettingError, UnknownNameError

BACKENDS = ("auto", "cpu", "reference")


def choose_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend to use: `name`, or for "auto" the fastest that can work here.

    Raises `UnknownNameError`, or `SettingError` if the backend asked for cannot work here.
    """
    if name not in BACKENDS:
        raise UnknownNameError.among("kernel backend", name, BACKENDS)
    if device.type != "cpu":
        raise SettingError(f"serving on '{device}' is not supported yet; use device=cpu")
    fits = dtype == torch.float32
    if name == "cpu" and not fits:
        raise SettingError(f"kernel backend 'cpu' computes in float32, not {dtype}; use that dtype")
    if name == "auto":
        return "cpu" if fits else "reference"
    return name
