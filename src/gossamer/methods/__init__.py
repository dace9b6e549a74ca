"""Methods: ways to learn. One folder per method; importing this package loads no heavy library.

To add a method, write a folder here whose `__init__` decorates one subclass of `Method` with
`@register`; the command line, the reference and `gossamer.training` find it by that alone.
"""

from gossamer.methods.method import Kind, Method, MethodContext, MethodSettings, Stage
from gossamer.methods.registry import find, names, register

__all__ = [
    "Kind",
    "Method",
    "MethodContext",
    "MethodSettings",
    "Stage",
    "find",
    "names",
    "register",
]
