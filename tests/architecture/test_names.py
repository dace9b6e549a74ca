"""Public names that exist, and tests named after behaviour."""

import ast
import re
from collections import Counter
from importlib import import_module

import pytest
from house import ROOT, sources

# A number of a list that lies elsewhere: `test_9_...`.
OUTSIDE_NUMBER = re.compile(r"_check_\d|_\d+_\d+_")


def _public_packages() -> list[str]:
    inits = (source for source in sources() if source.path.name == "__init__.py")
    return [source.folder for source in inits if "__all__" in source.path.read_text()]


@pytest.mark.parametrize("package", _public_packages())
def test_public_names_are_sorted_and_exist(package):
    module = import_module(package)
    groups = [(not n.isupper(), not n[0].isupper(), n) for n in module.__all__]
    assert groups == sorted(groups), f"{package}.__all__ is not sorted"
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_tests_are_named_after_behaviour():
    wrong = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and OUTSIDE_NUMBER.search(node.name)
    ]
    assert not wrong, wrong


def test_modules_of_tests_have_names_of_their_own():
    # Tests are collected as modules without a package: of two with one name, the second would fail.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
