"""Compiles forms on trial, in a process that is killed if one takes too long; see `trials`.

`python -m gossamer.serving.structured.trial_process` reads a line of JSON with the texts of the
special tokens, and then a line for each form: `{"kind": ..., "text": ...}`. It answers each with a
line: what is wrong with the form, or null. It ends with its input.

Only what compiles is imported, so that it starts in a tenth of a second and takes 20 MiB.
"""

import json
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from gossamer.children import ignore_signals
from gossamer.serving.structured.bounds import FormError
from gossamer.serving.structured.compiling import STACK_BYTES, compile_form

MEMORY_BYTES = 2 * 1024**3
"""The address space that a compilation may take, its stack included."""
CPU_SECONDS = 30
"""A compilation that takes more ends the process, even if its parent has gone."""
_END = "<|end|>"


class _Bytes:
    """A vocabulary of single bytes and special tokens."""

    def __init__(self, special: Sequence[str]) -> None:
        names = dict.fromkeys([_END, *special])
        self.tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in names]
        self.eos_token_id = 256
        self.bos_token_id = None
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def byte_tokenizer(special: Sequence[str]) -> LLTokenizer:
    """Make a tokenizer of single bytes and the special tokens of these texts.

    Whether a form can be compiled, and how long it takes, hardly depends on the vocabulary, and
    this one takes no time to make.
    """
    wrapped: Any = _Bytes(special)
    return LLTokenizer(TokenizerWrapper(wrapped), eos_token=[wrapped.eos_token_id])


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bound_time() -> None:
    try:
        import resource
    except ImportError:
        return
    until = int(time.process_time()) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))


def _problem(tokenizer: LLTokenizer, kind: str, text: str) -> str | None:
    try:
        compile_form(tokenizer, kind, text)
    except FormError as error:
        return str(error)
    except MemoryError:
        return "to compile it takes more memory than is allowed; make it simpler"
    return None


def _work() -> None:
    tokenizer = byte_tokenizer(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        _bound_time()
        form = json.loads(line)
        print(json.dumps(_problem(tokenizer, form["kind"], form["text"])), flush=True)


def main() -> None:
    """Run the process."""
    # It ends with its parent, which may need it until it has drained.
    ignore_signals()
    _bound_memory()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_work)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
