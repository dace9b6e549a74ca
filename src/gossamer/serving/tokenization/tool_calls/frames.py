"""Writes grammars of answers that call tools, in the marks of a family; see `StructuredOutputs`.

They are in Lark's notation. `@form` stands for what else has a form, `call` for the JSON object of
a call, `name` for the name of a tool that may be called, and `arguments` for a JSON object.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SPACES = {"x-guidance": {"whitespace_pattern": r"[ \t\n\r]{1,40}"}}
"""Bounded, as between the parts of all JSON that is to have a form."""


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """How a family writes calls, for answers that are kept to it."""

    one: str
    """One call."""
    several: str
    """One call or more."""
    required: str
    """One call or more behind the marker that the prompt ends with; `@form` is each one's JSON."""


_TAGGED = r'"<tool_call>" "\n" call "\n" "</tool_call>"'
_NAMED = r'"[TOOL_CALLS]" name "[ARGS]"? arguments'

TAGGED = CallGrammar(
    one=_TAGGED,
    several=rf'{_TAGGED} ("\n" {_TAGGED})*',
    required=r'@form ("\n" "</tool_call>" "\n" "<tool_call>" "\n" @form)* ("\n" "</tool_call>")?',
)
BARE = CallGrammar(one="call", several='call (";" " "? call)*', required='@form (";" " "? @form)*')
MISTRAL = CallGrammar(
    one=f'"[TOOL_CALLS]" " "? "[" call "]" | {_NAMED}',
    several=f'"[TOOL_CALLS]" " "? "[" call ("," " "? call)* "]" | ({_NAMED})+',
    required='@form | "[" @form ("," " "? @form)* "]"',
)


def calls_or_form(
    calls: str, names: Iterable[str], arguments_key: str, marks: Mapping[str, int]
) -> str:
    """Write the grammar of an answer that is calls, or else has the form.

    Args:
        calls: `one` or `several` of a `CallGrammar`.
        names: the tools that may be called.
        arguments_key: the key of a call's arguments.
        marks: the texts of marks that are tokens of their own, with the ids of these.
    """
    known = sorted(names)
    schema = {
        **_SPACES,
        "type": "object",
        "properties": {"name": {"enum": known}, arguments_key: {"type": "object"}},
        "required": ["name", arguments_key],
        "additionalProperties": False,
    }
    rules = (
        f"start: @form | calls\ncalls: {calls}",
        f"name: {' | '.join(map(json.dumps, known))}",
        f"arguments: %json {json.dumps({**_SPACES, 'type': 'object'})}",
        f"call: %json {json.dumps(schema)}",
    )
    return "\n".join([_with_tokens(rules[0], marks), *rules[1:]])


def required_calls(calls: CallGrammar, marks: Mapping[str, int]) -> str:
    """Write the grammar of an answer that has to call; `marks` are as in `calls_or_form`."""
    return _with_tokens(f"start: {calls.required}", marks)


def _with_tokens(rules: str, marks: Mapping[str, int]) -> str:
    for text, token_id in marks.items():
        # A token of its own is no text to the library, unless it is not special.
        rules = rules.replace(f'"{text}"', f'(<[{token_id}]> | "{text}")')
    return rules
