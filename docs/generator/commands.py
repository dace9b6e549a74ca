"""The command line: every command, sub-command and option, from the parsers themselves."""

import argparse
from collections.abc import Iterator
from importlib import import_module

from generator.markdown import one_line, prose, table
from gossamer.cli.main import COMMANDS, build_parser


def page() -> str:
    """docs/reference/commands.md."""
    parts = [
        "# Commands",
        "`gossamer COMMAND --help` shows the same on the terminal. A command ends with exit code 0"
        " if all went well, 2 if an argument or a setting is wrong, 130 after Ctrl-C, and 1 after"
        " any other error; an error is one line on the error stream.",
        table(["command", "what it does"], [(f"`{n}`", text) for n, text in COMMANDS.items()]),
    ]
    for name in COMMANDS:
        parser = build_parser(name, import_module(f"gossamer.cli.{name}"))
        parts += _command(parser, level=2)
    return "\n\n".join(parts)


def _command(parser: argparse.ArgumentParser, level: int, summary: str = "") -> Iterator[str]:
    yield f"{'#' * level} {parser.prog}"
    yield prose(parser.description or summary)
    # argparse has no public way to list what was declared.
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if _is_option(a)]
        if actions:
            if group.title not in ("positional arguments", "options"):
                yield f"**{group.title}**"
            yield table(["option", "meaning"], [_row(action) for action in actions])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield from _command(child, level + 1, helps.get(name, ""))


def _is_option(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def _row(action: argparse.Action) -> tuple[str, str]:
    text = one_line(action.help).replace("%(default)s", str(action.default)).replace("%%", "%")
    if action.required and action.option_strings:
        text = f"{text} (required)"
    if isinstance(action.choices, tuple | list):
        text = f"{text} One of: {', '.join(f'`{choice}`' for choice in action.choices)}."
    return f"`{_spelling(action)}`", text


def _spelling(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    placeholder = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"{placeholder} ..." if action.nargs in ("*", "+") else placeholder
    takes_value = action.nargs != 0 and not action.choices
    return f"{names} {placeholder}" if takes_value else names
