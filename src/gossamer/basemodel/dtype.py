"""Which number format suits a device."""

import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def default_dtype(device: "str | torch.device" = "cpu") -> "torch.dtype":
    """bf16 where the device computes in it, else fp32.

    A CPU without bf16 units emulates them: a training step was measured 25 to 40 times slower
    than in fp32, although torch accepts the request without complaint.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if kind == "cpu" and cpu_has_bf16_units():
        return torch.bfloat16
    return torch.float32


def cpu_has_bf16_units() -> bool:
    """Whether this processor multiplies bf16 matrices natively (AVX512-BF16, AMX or Arm BF16)."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # On x86 the library also says yes to plain AVX-512, where it only emulates.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
