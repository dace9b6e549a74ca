"""Decisions over integers need no tensors: their tests run where torch cannot be imported."""

import subprocess
import sys

from house import ROOT, sources

PURE_FOLDERS = (
    "serving/core",
    "serving/memory",
    "serving/store",
    "serving/scheduler",
    "serving/simulation",
)
HEAVY = ("torch", "numpy", "transformers", "numba")


def test_policy_loads_no_tensors():
    pure = [s.module for s in sources() if s.name.startswith(tuple(f"{f}/" for f in PURE_FOLDERS))]
    assert len(pure) > len(PURE_FOLDERS)
    imports = "; ".join(f"import {name}" for name in pure)
    code = f"{imports}; import sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_policy_tests_run_where_torch_cannot_be_imported():
    """The tests of memory and scheduler themselves, but the long random ones."""
    tests = ROOT / "tests"
    arguments = [
        "--noconftest",
        *("-q", "-p", "no:cacheprovider", "-k", "not random"),
        *("-o", f"pythonpath={tests / 'helpers'}"),
        *(str(tests / "serving" / folder) for folder in ("memory", "scheduler")),
    ]
    code = (
        "import sys, pytest\n"
        f"for name in {HEAVY}: sys.modules[name] = None\n"
        f"sys.exit(pytest.main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
