"""GPU kernels are compiled for GPUs that are not here: what the machine code takes is bounded.

In processes of their own: in this one kernels are interpreted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "benchmarks/gpu/compile_report.py"


def run_report(folder, *arguments):
    """The finished process and its rows."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    environment["PYTHONPATH"] = str(ROOT / "src")
    file = folder / "report.json"
    done = subprocess.run(
        [sys.executable, REPORT, "--json", file, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, json.loads(file.read_text())["rows"] if file.exists() else []


def check(done, rows):
    assert not [(row["label"], row["arch"], row["problems"]) for row in rows if row["problems"]]
    assert done.returncode == 0, done.stderr
    assert all(row["spills"] == 0 and row["registers"] > 0 for row in rows)


def test_decodes_of_bfloat16_on_hopper(tmp_path):
    done, rows = run_report(tmp_path, "--arch", 90, "--filter", "attention decode bf16")
    check(done, rows)
    (row,) = rows
    assert row["HMMA"] + row["HGMMA"] > 0
    assert row["loads"]["cp.async.16"] >= 2
    # Keys and values are never read element by element.
    assert not {"ld.2", "ld.1"} & set(row["loads"])
    assert f"| {row['label']} | 90 | {row['registers']} | 0 |" in done.stdout


def test_writes_of_float32_on_ampere(tmp_path):
    done, rows = run_report(tmp_path, "--arch", 80, "--filter", "attention write fp32")
    check(done, rows)
    assert [(row["arch"], row["HMMA"] + row["HGMMA"]) for row in rows] == [(80, 0)]


BROKEN = """
import sys
from dataclasses import replace
sys.path.insert(0, {folder!r})
import compile_report
(case,) = compile_report.all_cases("attention merge bf16")
strict = replace(
    case, most_registers=8, most_shared=1, uses_tensor_cores=True, loads={{"cp.async.16": 1}}
)
print(*compile_report.compile_case(strict, 90).problems, sep="\\n")
print(*compile_report.compile_case(replace(case, constants={{}}), 90).problems, sep="\\n")
"""


def test_each_bound_can_be_missed(tmp_path):
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(folder=str(REPORT.parent))],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    registers, shared, cores, loads, arguments = done.stdout.splitlines()
    assert registers.endswith("registers, at most 8")
    assert shared.endswith("bytes of shared memory, at most 1")
    assert (cores, loads) == ("no tensor cores", "0 of cp.async.16, at least 1")
    assert arguments.startswith("arguments that do not fit: ['D', 'D_PADDED'")


def test_no_case_by_that_name(tmp_path):
    done, _ = run_report(tmp_path, "--filter", "no such kernel")
    assert done.returncode == 2
    assert "no case's label contains 'no such kernel'" in done.stderr


@pytest.mark.slow
def test_all_kernels_on_all_architectures(tmp_path):
    done, rows = run_report(tmp_path)
    check(done, rows)
    assert {row["arch"] for row in rows} == {80, 90, 120}
