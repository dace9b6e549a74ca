"""The tests of all kernels, against float64, on the machine's GPU."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lease_sections.frame import Found, Lease

ROOT = Path(__file__).parents[3]
TESTS = ROOT / "tests/kernels/gpu"


def correctness(lease: Lease, most_seconds: float = 75) -> Found:
    """Run each file of tests in a process of its own, all at once.

    Files that take too long are stopped; what they had not reported counts as not run. A test that
    bounds rounding may fail on a GPU by a hair, so that failures are named.
    """
    files = sorted(TESTS.glob("test_*_triton.py"))
    if lease.dry:
        files = [file for file in files if "gated_activation" in file.name]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": str(int(lease.device.type != "cuda")),
        "GOSSAMER_KERNEL_DEVICE": lease.device.type,
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT / "src", ROOT / "benchmarks/gpu"])),
    }
    processes = {file: _start(file, environment, lease.output) for file in files}
    found: Found = {"passed": 0, "failed": [], "not_run": []}
    for file, (process, report) in processes.items():
        try:
            process.wait(timeout=max(1.0, min(most_seconds, lease.left - 5)))
        except subprocess.TimeoutExpired:
            process.kill()
        if not report.exists():
            found["not_run"].append(file.name)
            continue
        for case in ElementTree.parse(report).iter("testcase"):
            is_wrong = case.find("failure") is not None or case.find("error") is not None
            if is_wrong:
                found["failed"].append(f"{file.stem}::{case.get('name')}")
            elif case.find("skipped") is None:
                found["passed"] += 1
    if not found["passed"]:
        raise RuntimeError(f"no test has passed; see {lease.output}/*.log")
    return found


def _start(
    file: Path, environment: dict[str, str], output: Path
) -> tuple["subprocess.Popen[bytes]", Path]:
    report = output / f"{file.stem}.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "lease_sections.mirror", "-p",
        "no:cacheprovider", "-o", "filterwarnings=", f"--junitxml={report}", str(file),
    ]  # fmt: skip
    with (output / f"{file.stem}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    return process, report


def says(found: Found) -> str:
    """One line."""
    failed = f": {', '.join(found['failed'][:5])}" if found["failed"] else ""
    return f"{found['passed']} passed, {len(found['failed'])} failed{failed}, not run: " + (
        ", ".join(found["not_run"]) or "none"
    )
