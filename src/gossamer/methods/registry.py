"""The table of methods. Folders of this package are found by themselves; others call `register`."""

import pkgutil
from importlib import import_module
from typing import Any, TypeVar

from gossamer.errors import UnknownNameError
from gossamer.methods.method import Method

M = TypeVar("M", bound=type[Method[Any]])
_METHODS: dict[str, type[Method[Any]]] = {}


def register(method: M) -> M:
    """Class decorator that adds a method under its `name`; a second one of that name is a bug."""
    known = _METHODS.setdefault(method.name, method)
    if known is not method:
        raise ValueError(f"method '{method.name}' is registered twice: {known} and {method}")
    return method


def find(name: str) -> type[Method[Any]]:
    """The method of that name; raises `UnknownNameError` naming the nearest."""
    _load_built_in()
    if name not in _METHODS:
        raise UnknownNameError.among("method", name, _METHODS)
    return _METHODS[name]


def names() -> list[str]:
    """All names, sorted."""
    _load_built_in()
    return sorted(_METHODS)


def _load_built_in() -> None:
    package = import_module("gossamer.methods")
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            import_module(f"gossamer.methods.{module.name}")
