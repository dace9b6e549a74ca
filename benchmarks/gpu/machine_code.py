"""What a compiled kernel takes, read from its PTX and, with NVIDIA's tools, its machine code."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(kw_only=True)
class MachineCode:
    """Counts of instructions are those of the code, not how often they run."""

    registers: int = 0
    """Of a thread."""
    spills: int = 0
    """Loads and stores of registers that did not fit."""
    stack: int = 0
    """Bytes of a thread."""
    shared: int = 0
    """Bytes of shared memory of a program."""
    HMMA: int = 0
    """Instructions of tensor cores; HGMMA: those of Hopper's."""
    HGMMA: int = 0
    FFMA: int = 0
    """Plain products of float32."""
    atomics: int = 0
    """Additions in global memory."""
    loads: dict[str, int] = field(default_factory=dict)
    """Instructions in PTX: "cp.async.16" copies 16 bytes to shared memory, "ld.16" loads them."""


def read(binary: Any, into: MachineCode) -> None:
    """Put into `into` what the kernel `binary`, as `triton.compile` returns it, takes."""
    into.shared = binary.metadata.shared
    into.loads = count_loads(binary.asm["ptx"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run(
                [TOOLS / tool, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    sizes = dict(re.findall(r"\b(REG|STACK):(\d+)", usage))
    into.registers, into.stack = int(sizes["REG"]), int(sizes["STACK"])
    count = Counter(re.findall(r"\b(LDL|STL|HMMA|HGMMA|FFMA|REDG?|ATOMG?)\b", sass))
    into.spills = count["LDL"] + count["STL"]
    into.HMMA, into.HGMMA, into.FFMA = count["HMMA"], count["HGMMA"], count["FFMA"]
    into.atomics = sum(count[name] for name in ("RED", "REDG", "ATOM", "ATOMG"))


def count_loads(ptx: str) -> dict[str, int]:
    """Loads from global memory by kind and width in bytes."""
    found: Counter[str] = Counter()
    for size in re.findall(r"cp\.async\.c[ga]\.shared\.global[^;]*?, *(0x[0-9a-f]+|\d+)", ptx):
        found[f"cp.async.{int(size, 0)}"] += 1
    for vector, bits in re.findall(r"ld\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\s", ptx):
        found[f"ld.{int(vector or 1) * int(bits) // 8}"] += 1
    return dict(found)
