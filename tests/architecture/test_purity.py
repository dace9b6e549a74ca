"""Decisions over integers and dataclasses need no tensors, and neither do their tests."""

import subprocess
import sys

import pytest
from house import ROOT, Source, imported_sources, sources

PURE_FOLDERS = (
    "serving/core",
    "serving/memory",
    "serving/store",
    "serving/scheduler",
    "serving/simulation",
    "jobs/queue",
    "cluster/placement",
)
TENSOR_PACKAGES = ("torch", "numpy", "numba", "transformers")


def _files_of(folder: str) -> list[Source]:
    return [source for source in sources() if source.name.startswith(f"{folder}/")]


@pytest.mark.parametrize("folder", PURE_FOLDERS)
def test_policy_folders_reach_no_tensors(folder):
    waiting = _files_of(folder)
    assert waiting
    reached = set(waiting)
    while waiting:
        source = waiting.pop()
        packages = {imported.split(".")[0] for imported in source.imports}
        assert not packages & set(TENSOR_PACKAGES), f"{folder} reaches {source.name}"
        new = set(imported_sources(source)) - reached
        reached |= new
        waiting += new


def test_policy_folders_load_no_tensors():
    modules = [source.module for folder in PURE_FOLDERS for source in _files_of(folder)]
    imports = "; ".join(f"import {module}" for module in modules)
    code = f"{imports}; import sys; print(*[m for m in {TENSOR_PACKAGES} if m in sys.modules])"
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
        f"for name in {TENSOR_PACKAGES}: sys.modules[name] = None\n"
        f"sys.exit(pytest.main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
