"""Compile every Triton kernel for GPUs that need not be here, and say what its machine code takes.

    python benchmarks/gpu/compile_report.py --arch 90 --filter decode --json report.json

The launches are those that `compile_cases()` of each `kernels/**/triton_kernels.py` names. A row
says registers per thread, spilled loads and stores, stack and shared memory in bytes, loads from
global memory by width, and instructions of tensor cores (HMMA, HGMMA) and of plain products (FFMA),
all counted in the code, not as often as they run. Status 1: a case is outside its bounds.
"""

import argparse
import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import gossamer.kernels
from gossamer.kernels.triton_kernels import CompileCase
from machine_code import MachineCode, read

ARCHITECTURES = (80, 90, 120)
WIDTHS = (16, 8, 4, 2, 1)
COLUMNS = ("registers", "spills", "stack", "shared", "HMMA", "HGMMA", "FFMA", "seconds")


@dataclass(kw_only=True)
class Row(MachineCode):
    """What one case takes on one architecture."""

    label: str
    arch: int
    seconds: float = 0.0
    """Of compiling."""
    problems: list[str] = field(default_factory=list)


def all_cases(text: str) -> list[CompileCase]:
    """The cases of the package whose label contains `text`, in order of modules."""
    package = gossamer.kernels
    names = [
        module.name
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        if module.name.endswith(".triton_kernels")
    ]
    modules = [importlib.import_module(name) for name in sorted(names)]
    cases = [case for m in modules if hasattr(m, "compile_cases") for case in m.compile_cases()]
    return [case for case in cases if text in case.label]


def compile_case(case: CompileCase, arch: int) -> Row:
    """Compile one case; a failure is one of the row's problems."""
    row = Row(label=case.label, arch=arch)
    names = case.kernel.arg_names
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    known = set(case.signature) | set(case.constants)
    if known != set(names):
        row.problems.append(f"arguments that do not fit: {sorted(known ^ set(names))}")
        return row
    # As a launch would find them: what torch allocates begins at multiples of 16 bytes.
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name][0] == "*" or name in case.aligned
    }
    source = ASTSource(
        fn=case.kernel, signature=signature, constexprs=dict(case.constants), attrs=attrs
    )
    options = {
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "maxnreg": case.register_limit,
    }
    started = time.perf_counter()
    try:
        binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    except Exception as error:
        row.problems.append(f"does not compile: {type(error).__name__}: {error}")
        return row
    row.seconds = round(time.perf_counter() - started, 2)
    read(binary, row)
    row.problems += list(problems(case, row))
    return row


def problems(case: CompileCase, row: Row) -> Iterator[str]:
    """Where a row is outside the case's bounds."""
    if row.spills:
        yield f"{row.spills} spills"
    if row.registers > case.most_registers:
        yield f"{row.registers} registers, at most {case.most_registers}"
    if row.shared > case.most_shared:
        yield f"{row.shared} bytes of shared memory, at most {case.most_shared}"
    if case.uses_tensor_cores and not row.HMMA + row.HGMMA:
        yield "no tensor cores"
    for name, least in case.loads.items():
        if row.loads.get(name, 0) < least:
            yield f"{row.loads.get(name, 0)} of {name}, at least {least}"


def as_table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    kinds = [f"{kind}.{width}" for kind in ("cp.async", "ld") for width in WIDTHS]
    kinds = [kind for kind in kinds if any(kind in row.loads for row in rows)]
    names = ["case", "sm", *COLUMNS, *kinds, "problems"]
    lines = [names, ["---"] * len(names)]
    for row in rows:
        values = [getattr(row, column) for column in COLUMNS]
        loads = [row.loads.get(kind, 0) for kind in kinds]
        lines.append([row.label, row.arch, *values, *loads, "; ".join(row.problems)])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> int:
    """Compile, print the table, and return the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, metavar="CC")
    parser.add_argument("--filter", default="", help="only cases whose label contains it")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("interpreted kernels cannot be compiled; unset TRITON_INTERPRET")
    cases = all_cases(arguments.filter)
    if not cases:
        parser.error(f"no case's label contains '{arguments.filter}'")
    rows = [compile_case(case, arch) for case in cases for arch in arguments.arch]
    print(f"triton {triton.__version__}, {len(cases)} cases\n\n{as_table(rows)}")
    if arguments.json:
        report = {"triton": triton.__version__, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
