"""Chooses the backend that computes; one asked for by name is an error where it cannot run."""

import os
from importlib.util import find_spec

import torch

from gossamer.errors import SettingError, UnknownNameError

BACKENDS = ("auto", "cpu", "reference", "triton")


def choose_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend to use: `name`, or for "auto" the fastest that can work here.

    Raises `UnknownNameError`, or `SettingError` if the backend asked for cannot work here.
    """
    if name not in BACKENDS:
        raise UnknownNameError.among("kernel backend", name, BACKENDS)
    on_cpu = device.type == "cpu"
    if name == "auto":
        if on_cpu:
            return "cpu" if dtype == torch.float32 else "reference"
        name = "triton"
    if name == "cpu":
        _check_cpu(device, dtype)
    if name == "triton":
        _check_triton(on_cpu=on_cpu)
    return name


def _check_cpu(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cpu":
        raise SettingError(
            f"kernel backend 'cpu' does not compute on '{device}'; use backend=triton"
        )
    if dtype != torch.float32:
        short = str(dtype).removeprefix("torch.")
        raise SettingError(
            f"kernel backend 'cpu' computes in float32, not {short}; use dtype=float32, or "
            f"backend=reference (plain torch, slow) for {short}"
        )


def _check_triton(*, on_cpu: bool) -> None:
    if on_cpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise SettingError(
            "kernel backend 'triton' needs a GPU; on a CPU use backend=cpu, or try the kernels in "
            "Triton's interpreter (very slow) with TRITON_INTERPRET=1 in the environment"
        )
    if find_spec("triton") is None:
        raise SettingError(
            "kernel backend 'triton' needs the package triton, which torch for CUDA brings; "
            "install it, or use backend=reference"
        )
