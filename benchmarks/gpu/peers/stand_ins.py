"""Modules that stand in for what a peer's LoRA files import from the rest of their package.

A package whose folder is there is searched without running its `__init__`; what is imported from
elsewhere in the package is named here, and does what it does on an NVIDIA GPU, by default settings.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def put_in(root: Path, packages: list[str], modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Make `packages` importable from below `root`, and `modules` from what is given.

    Raises `FileNotFoundError` if a package's folder is not there.
    """
    for name in packages:
        folder = root / name.replace(".", "/")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: unpack the wheel of {name} there")
        module = ModuleType(name)
        module.__path__ = [str(folder)]
        _register(name, module)
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        module.__path__ = []
        _register(name, module)


def _register(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], own, module)


def version_of(root: Path, name: str) -> str:
    """Return the version of the distribution `name` unpacked at `root`, or "unknown"."""
    found = sorted(root.glob(f"{name}-*.dist-info"))
    return (
        found[-1].name.removeprefix(f"{name}-").removesuffix(".dist-info") if found else "unknown"
    )
