"""`gossamer`: the group of commands. A command's module is imported only when it is called.

A command is one file in this folder with `add_arguments(parser)` and `run(args) -> int`.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType

from gossamer.cli.parts.words import unknown_command
from gossamer.errors import GossamerError

COMMANDS: dict[str, str] = {
    "model": "fetch and list base models",
    "tune": "fine-tune a base model with a method, on your data",
    "compare": "compare methods on the same rows, seeds and steps",
    "federate": "tune one adapter on the rows of many clients",
    "sparsity": "plan which part of a base model a run computes",
    "adapters": "list, inspect and merge adapters",
    "serve": "serve a base model and all adapters of a folder over HTTP",
    "cluster": "serve from several replicas, each adapter where it already is; plan and publish",
    "chat": "talk to models in the terminal, several side by side",
    "studio": "tune, compare and talk in the browser",
    "jobs": "make, list, show and stop the fine-tuning jobs of a server",
    "plan": "tell how many adapters fit into memory beside how many tokens",
    "bench": "put a server under load and tell what its users felt",
    "keys": "create, list and revoke API keys of tenants",
    "eval": "score adapters on the tasks of lm-evaluation-harness, all in one batch",
    "verify": "prove that served adapters answer as the trained models do",
    "completion": "print what makes your shell complete commands and options",
}
"""Name of each command, its module in this folder being of the same name, and its summary."""

_READER_LEFT = 141
"""What shells report of a program that SIGPIPE ended: 128 + 13."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _reported(arguments)
        finally:
            # Here, and not when Python ends: there, it is too late to say that the reader has left.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left, as `head` does.
        _write_nowhere()
        return _READER_LEFT


def _reported(arguments: Sequence[str]) -> int:
    """Run a command; every error that is not a bug becomes one line."""
    try:
        return _run(arguments)
    except GossamerError as error:
        return _report(str(error), exit_code=error.exit_code)
    except KeyboardInterrupt:
        return _report("interrupted", exit_code=130)
    except BrokenPipeError:
        raise
    except Exception as error:
        from gossamer.files import disk_trouble

        message = disk_trouble(error)
        if message is None and isinstance(error, OSError):
            message = " ".join(str(error).split())
        if message is None:
            raise
        return _report(message, exit_code=1)


def _run(arguments: Sequence[str]) -> int:
    name, *rest = arguments or ["help"]
    if name in ("-h", "--help", "help"):
        if not rest or rest[0] not in COMMANDS:
            print(_overview())
            return 0
        name, rest = rest[0], ["--help"]
    if name in ("-V", "--version", "version"):
        from gossamer.version import VERSION

        print(f"gossamer {VERSION}")
        return 0
    if name not in COMMANDS:
        return _report(unknown_command(name, COMMANDS), exit_code=2)
    # They tell of packages and kernels that they would like, whenever something imports them.
    for noisy in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    module = import_module(f"gossamer.cli.{name}")
    return int(module.run(build_parser(name, module).parse_args(rest)))


def build_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Build the parser of command `name`; its help is also the reference page."""
    parser = argparse.ArgumentParser(
        prog=f"gossamer {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gossamer COMMAND [options]",
            "",
            "Fine-tune one language model in thousands of cheap ways; serve all results at once.",
            "",
            "commands:",
            *lines,
            "",
            "`gossamer COMMAND --help` tells what a command takes.",
        ]
    )


def _report(message: str, *, exit_code: int) -> int:
    print(f"gossamer: error: {message}", file=sys.stderr)
    return exit_code


def _write_nowhere() -> None:
    """Let what is still buffered go nowhere, so that Python does not complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that is no file, as in a test, needs none of it.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
