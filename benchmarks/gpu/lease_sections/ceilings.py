"""What the machine can do at most, and what the smallest launch costs: the measure of all else."""

import subprocess

import torch
import triton
import triton.language as tl

from lease_sections.frame import Found, Lease
from lease_sections.timing import seconds_each


@triton.jit
def nothing_kernel(x):  # type: ignore[no-untyped-def]
    """The smallest program that the compiler does not leave out."""
    tl.store(x + tl.program_id(0), 1.0)


def ceilings(lease: Lease) -> Found:
    """Versions, bandwidth, products of bfloat16, and the time of a node of a graph."""
    is_real = lease.device.type == "cuda"
    found: Found = {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "gpu": torch.cuda.get_device_name() if is_real else "none",
        "nvidia_smi": _nvidia_smi() if is_real else "",
    }
    found |= _bandwidth(lease, 1 << (30 if is_real else 16))
    size = 8192 if is_real else 128
    a, b = (torch.randn(size, size, device=lease.device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    found["bf16_tflops"] = 2e-12 * size**3 / seconds_each([lambda: torch.mm(a, b, out=out)], lease)
    x = torch.zeros(1024, device=lease.device)
    nodes = 1000 if is_real else 3
    found["smallest_kernel_us"] = 1e6 * seconds_each(
        [lambda: nothing_kernel[(1,)](x)] * nodes, lease
    )
    found["smallest_operation_us"] = 1e6 * seconds_each([lambda: x.add_(1.0)] * nodes, lease)
    return found


def _bandwidth(lease: Lease, count: int) -> Found:
    """Of copying `count` numbers of four bytes, read and written, and of reading them alone."""
    source = torch.ones(count, dtype=torch.float32, device=lease.device)
    target = torch.empty_like(source)
    return {
        "copy_gb_s": 8e-9 * count / seconds_each([lambda: target.copy_(source)], lease),
        "read_gb_s": 4e-9 * count / seconds_each([lambda: source.sum()], lease),
    }


def says(found: Found) -> str:
    """One line."""
    return (
        f"{found['gpu']}, triton {found['triton']}: read {found['read_gb_s']:.0f} GB/s, copy "
        f"{found['copy_gb_s']:.0f} GB/s, {found['bf16_tflops']:.0f} TFLOP/s, a node "
        f"{found['smallest_kernel_us']:.2f} us"
    )


def _nvidia_smi() -> str:
    names = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
