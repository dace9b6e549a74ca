"""Print what makes your shell complete commands, options and files.

eval "$(gossamer completion bash)"                                  now, in this shell
gossamer completion bash > ~/.local/share/bash-completion/completions/gossamer
gossamer completion zsh > ~/.zfunc/_gossamer                        ~/.zfunc being in fpath
gossamer completion fish > ~/.config/fish/completions/gossamer.fish

The printed script has everything in it: nothing runs when you press Tab. Print it again after an
update.
"""

import argparse
from importlib import import_module

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FOLDERS = ("DIR",)
_FILES = ("FILE", "PATH", "PNG", "ADAPTER", "DATA", "CONFIG")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the argument."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that shall complete")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    print(shtab.complete(whole_parser(), shell=args.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Build one parser of all commands, with what completes each argument."""
    from gossamer.cli.main import COMMANDS

    parser = argparse.ArgumentParser(prog="gossamer")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        module = import_module(f"gossamer.cli.{name}")
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    _mark(parser)
    return parser


def _mark(parser: argparse.ArgumentParser) -> None:
    """Say which arguments are files or folders, by their placeholders."""
    import shtab

    # argparse has no public way to list what was declared.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _mark(child)
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
