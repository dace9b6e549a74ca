"""Methods: ways to learn. Importing this package loads neither torch nor PEFT nor any method.

A method that PEFT has is one module here; one of our own is a folder. To add one, write it and add
a row to the table in `registry`: the command line, the reference and `gossamer.training` find it
by that alone.
"""

from gossamer.methods.common.method import NOT_SERVED, Kind, Method, MethodContext, Stage
from gossamer.methods.common.settings import MethodSettings
from gossamer.methods.registry import (
    default_rate,
    find,
    names,
    parse_settings,
    register,
    settings_type,
    summary,
)

__all__ = [
    "NOT_SERVED",
    "Kind",
    "Method",
    "MethodContext",
    "MethodSettings",
    "Stage",
    "default_rate",
    "find",
    "names",
    "parse_settings",
    "register",
    "settings_type",
    "summary",
]
