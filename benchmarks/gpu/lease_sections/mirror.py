"""Tests of kernels, written for tensors on a CPU, run on a GPU: `pytest -p lease_sections.mirror`.

Every launch gets copies, on the device that `GOSSAMER_KERNEL_DEVICE` names, of all memory that its
tensors lie in, poison and guards included, and what it leaves there is copied back. On "cpu" the
copies are interpreted, which shows that nothing depends on the memory being the tests' own.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction


def mirrored(run: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Return what launches like `run`, a method of Triton's, on copies on `device`."""

    def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        copies: dict[int, tuple[Tensor, Tensor]] = {}

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            storage = value.untyped_storage()
            if storage._cdata not in copies:
                own = torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage)
                copies[storage._cdata] = own, own.to(device, copy=True)
            copy = copies[storage._cdata][1].untyped_storage()
            place = value.storage_offset(), value.size(), value.stride()
            return torch.empty(0, dtype=value.dtype, device=device).set_(copy, *place)

        result = run(
            kernel, *map(moved, args), grid=grid, warmup=warmup,
            **{name: moved(value) for name, value in options.items()},
        )  # fmt: skip
        for own, copy in copies.values():
            own.copy_(copy)
        return result

    return launch


def pytest_configure(config: object) -> None:
    """Put it in place of both ways to launch; one of them is used."""
    device = os.environ["GOSSAMER_KERNEL_DEVICE"]
    for way in (JITFunction, InterpretedFunction):
        way.run = mirrored(way.run, device)
