"""Compilation is told when there is some, and only then."""

import importlib.util
import sys

from gossamer.kernels.cpu import on_compilation

KERNEL = """
import numba

@numba.njit(cache=True)
def double(number):
    return 2 * number
"""


def load(path, name):
    """A new module of the same file, as another process would have it."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_it_is_told_once_and_never_for_kernels_that_are_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "kernel_for_a_test.py"
    path.write_text(KERNEL)
    monkeypatch.setitem(sys.modules, "kernel_for_a_test", None)
    told = []

    def tell():
        told.append(True)

    with on_compilation(tell):
        first = load(path, "kernel_for_a_test")
        assert first.double(2) == 4
        assert first.double(2.5) == 5.0
    assert len(told) == 1
    with on_compilation(tell):
        second = load(path, "kernel_for_a_test")
        assert second.double is not first.double
        assert second.double(3) == 6
    assert len(told) == 1, "what is on disk is not compiled"
