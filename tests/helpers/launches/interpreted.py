"""Triton's interpreter, made quicker."""

from triton.runtime import interpreter

_SEEN = set()


def _call(self, *given, **named):
    if self.fn.__module__ not in _SEEN:
        _SEEN.add(self.fn.__module__)
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*given, **named)


def call_at_once():
    """Let the functions that a kernel calls begin at once.

    Before each of them Triton puts the operations of its interpreter into the modules that the
    function names, where they stay: a fifth of all time. Once for each module does the same.
    """
    interpreter.InterpretedFunction.__call__ = _call
