"""Makes the device that settings name, in the number format and with the kernels that suit it."""

import torch

from gossamer.basemodel.support import default_dtype
from gossamer.errors import SettingError
from gossamer.kernels.backend import choose_backend
from gossamer.serving.device.cpu import CpuDevice
from gossamer.serving.device.cuda import CudaDevice
from gossamer.serving.device.cuda_api import TorchCuda
from gossamer.serving.device.device import Device

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def make_device(name: str, *, backend: str = "auto", dtype: str = "auto") -> Device:
    """Make the device `name`: auto (the first GPU, else the CPU), cpu, cuda or cuda:N.

    backend, dtype: as in `ServeSettings`. Raises `SettingError`, or `UnknownNameError`, for what
    does not exist or cannot compute here.
    """
    found = find_device(name)
    served = served_dtype(dtype, found)
    kernels = choose_backend(backend, found, served)
    if found.type == "cpu":
        return CpuDevice(kernels, served)
    return CudaDevice(TorchCuda(found), kernels, served)


def find_device(name: str) -> torch.device:
    """Return the device of torch that `name` means; raises `SettingError` if it is not there."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, index = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (":" in name and not index.isdecimal())):
        raise SettingError(f"device '{name}' does not exist; use auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = "no GPU is visible to torch" if torch.version.cuda else "this torch has no CUDA"
        raise SettingError(f"device '{name}' cannot be used: {why}; use device=cpu")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise SettingError(
            f"device '{name}' does not exist; the last of {count} is cuda:{count - 1}"
        )
    return torch.device("cuda", int(index or 0))


def served_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format `name`; auto: float32 on a CPU, else what the GPU computes in.

    A CPU with bfloat16 units gets float32 too, in which its kernels are exact.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else default_dtype(device)
    if name not in _DTYPES:
        raise SettingError(f"dtype '{name}' does not exist; use auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]
