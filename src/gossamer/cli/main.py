"""`gossamer`: the group of commands. A command's module is imported only when it is called.

A command is one file in this folder with `add_arguments(parser)` and `run(args) -> int`.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from gossamer import __version__
from gossamer.errors import GossamerError, unknown_name_message

COMMANDS: dict[str, str] = {
    "model": "fetch and list base models",
    "tune": "fine-tune a base model with a method, on your data",
    "compare": "compare methods on the same rows, seeds and steps",
    "sparsity": "plan which part of a base model a run computes",
    "adapters": "list, inspect and merge adapters",
    "serve": "serve a base model and all adapters of a folder over HTTP",
    "plan": "tell how many adapters fit into memory beside how many tokens",
    "bench": "put a server under load and tell what its users felt",
    "keys": "create, list and revoke API keys of tenants",
    "verify": "prove that served adapters answer as the trained models do",
}
"""Name of each command, its module in this folder being of the same name, and its summary."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"gossamer {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _report(unknown_name_message("command", name, COMMANDS), exit_code=2)
    module = import_module(f"gossamer.cli.{name}")
    parsed = build_parser(name, module).parse_args(rest)
    try:
        return int(module.run(parsed))
    except GossamerError as error:
        return _report(str(error), exit_code=error.exit_code)
    except KeyboardInterrupt:
        return _report("interrupted", exit_code=130)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does.
        sys.stderr.close()
        return 0


def build_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of command `name`; its help is also the reference page."""
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


if __name__ == "__main__":
    sys.exit(main())
