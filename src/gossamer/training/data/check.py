"""Checks one raw row: gives the sample that it says, or the reason why it cannot be used.

The result is one of four samples: a `Conversation`, a `PromptCompletion` of two strings, a
`Passage` of text, or a `Preference` between two of them.
"""

import json
from dataclasses import dataclass
from typing import Any

from gossamer.training.data.calls import Tool, check_calls, check_tools
from gossamer.training.data.formats import missing_columns, near_column
from gossamer.training.data.rows import RowProblem, describe

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, Any]
"""A turn, as `apply_chat_template` takes it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages with `role` and `content`; assistant turns before `first_trained` are context, and
    so are those whose number is in `untrained`. `tools` are what its answers may call."""

    messages: list[Message]
    first_trained: int = 0
    untrained: frozenset[int] = frozenset()
    tools: tuple[Tool, ...] = ()

    @property
    def trained(self) -> list[int]:
        """The numbers of the assistant turns that are learnt from."""
        return [
            number
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant"
            and number >= self.first_trained
            and number not in self.untrained
        ]


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and its completion; as plain text, `glue` stands between them."""

    prompt: str
    completion: str
    glue: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """Text to be learnt as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to the same prompt."""

    chosen: Conversation | PromptCompletion
    rejected: Conversation | PromptCompletion


Sample = Conversation | PromptCompletion | Passage | Preference


def check_row(values: dict[str, Any], fmt: str) -> Sample:
    """Read the sample of a row of format `fmt`. Raises `RowProblem`."""
    for column in missing_columns(values, fmt):
        near = near_column(column, values)
        has = ", ".join(repr(name) for name in values) or "nothing"
        hint = f"; did you mean '{column}' where it says '{near}'?" if near else ""
        raise RowProblem(f"'{column}' is missing; the row has {has}{hint}")
    return _CHECKS[fmt](values)


def _check_messages(values: dict[str, Any]) -> Sample:
    messages = values["messages"]
    if isinstance(messages, str):
        # A CSV file has no lists, and some Parquet files hold JSON text.
        messages = _parsed("messages", messages)
    conversation = Conversation(
        _messages("messages", messages),
        untrained=_without_weight("messages", messages),
        tools=check_tools(values),
    )
    _require_answer("messages", conversation.messages)
    if not conversation.trained:
        raise RowProblem("all assistant turns have weight 0: nothing to learn")
    return conversation


def _check_pair(values: dict[str, Any]) -> Sample:
    prompt, completion = values["prompt"], values["completion"]
    if isinstance(prompt, list) != isinstance(completion, list):
        raise RowProblem("'prompt' and 'completion' must both be strings or both lists of messages")
    if not isinstance(prompt, list):
        return PromptCompletion(_prompt("prompt", prompt), _text("completion", completion))
    context, answer = _messages("prompt", prompt), _messages("completion", completion)
    _require_answer("completion", answer)
    if answer[0]["role"] != "assistant":
        raise RowProblem(f"completion[0] must be an assistant turn, got '{answer[0]['role']}'")
    tools = check_tools(values)
    return Conversation([*context, *answer], first_trained=len(context), tools=tools)


def _check_preference(values: dict[str, Any]) -> Preference:
    """Read a row in TRL's preference format: texts with a prompt, or conversations, in which the
    messages that both have in common are context too."""
    prompt, answers = values.get("prompt"), (values["chosen"], values["rejected"])
    if all(isinstance(answer, str) for answer in answers):
        return _text_preference(prompt, *answers)
    if not all(isinstance(answer, list) for answer in answers):
        raise RowProblem("'chosen' and 'rejected' must both be strings or both lists of messages")
    context = _messages("prompt", prompt) if isinstance(prompt, list) else []
    sides = [
        context + _messages(name, answer)
        for name, answer in zip(("chosen", "rejected"), answers, strict=True)
    ]
    if sides[0] == sides[1]:
        raise RowProblem("'chosen' and 'rejected' are the same")
    shared = len(context)
    while shared < min(map(len, sides)) and sides[0][shared] == sides[1][shared]:
        shared += 1
    for name, messages in zip(("chosen", "rejected"), sides, strict=True):
        _require_answer(name, messages[shared:])
        if messages[shared]["role"] != "assistant":
            raise RowProblem(
                f"'{name}' goes on with a {messages[shared]['role']} turn where both answers "
                "differ; it must be an assistant turn"
            )
    if not shared:
        raise RowProblem("'prompt' is missing: nothing comes before the two answers")
    tools = check_tools(values)
    return Preference(*(Conversation(each, first_trained=shared, tools=tools) for each in sides))


def _text_preference(prompt: object, chosen: object, rejected: object) -> Preference:
    if prompt is None:
        raise RowProblem("'prompt' is missing; answers that are strings need one")
    question = _prompt("prompt", prompt)
    pair = (_text("chosen", chosen), _text("rejected", rejected))
    if pair[0] == pair[1]:
        raise RowProblem("'chosen' and 'rejected' are the same")
    return Preference(*(PromptCompletion(question, answer) for answer in pair))


def _check_instruction(values: dict[str, Any]) -> Sample:
    prompt = _prompt("instruction", values["instruction"])
    extra = values.get("input")
    if extra is not None and _string("input", extra).strip():
        prompt = f"{prompt}\n\n{extra}"
    return PromptCompletion(prompt, _text("output", values["output"]), glue="\n\n")


def _check_text(values: dict[str, Any]) -> Sample:
    return Passage(_text("text", values["text"]))


def _messages(column: str, value: object) -> list[Message]:
    if not isinstance(value, list):
        raise RowProblem(f"'{column}' must be a list of messages, got {describe(value)}")
    if not value:
        raise RowProblem(f"'{column}' is an empty list")
    return [_message(f"{column}[{index}]", entry) for index, entry in enumerate(value)]


def _without_weight(column: str, messages: list[dict[str, Any]]) -> frozenset[int]:
    """The numbers of the messages with weight 0, as OpenAI's format has it, which are context."""
    found = set()
    for number, message in enumerate(messages):
        weight = message.get("weight")
        if weight is None:
            continue
        if weight not in (0, 1):
            raise RowProblem(f"{column}[{number}].weight must be 0 or 1, got {describe(weight)}")
        if not weight:
            found.add(number)
    return frozenset(found)


def _message(place: str, entry: object) -> Message:
    if not isinstance(entry, dict):
        raise RowProblem(f"{place} must be an object, got {describe(entry)}")
    calls = check_calls(f"{place}.tool_calls", entry.get("tool_calls"))
    for key in ("role", "content"):
        if key not in entry and not (key == "content" and calls):
            hint = "; it looks like from/value pairs" if {"from", "value"} <= set(entry) else ""
            raise RowProblem(f"{place} has no '{key}'{hint}")
    role, content = entry["role"], entry.get("content")
    if role not in ROLES:
        raise RowProblem(f"{place} has the unknown role {role!r}; known: {', '.join(ROLES)}")
    if calls:
        if role != "assistant":
            raise RowProblem(f"{place} has tool calls, which only the assistant makes")
        text = None if content is None else _string(f"{place}.content", content)
        return {"role": role, "content": text or None, "tool_calls": calls}
    # A system message may be empty: it switches off a template's own; so may a result.
    check = _string if role in ("system", "tool") else _text
    message = {"role": role, "content": check(f"{place}.content", content)}
    named = {key: entry[key] for key in ("name", "tool_call_id") if entry.get(key) is not None}
    if role == "tool":
        message |= {key: _string(f"{place}.{key}", value) for key, value in named.items()}
    return message


def _require_answer(column: str, messages: list[Message]) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise RowProblem(f"'{column}' has no assistant turn: nothing to learn")


def _prompt(column: str, value: object) -> str:
    text = _string(column, value)
    if not text.strip():
        raise RowProblem(f"'{column}' is empty; text without a prompt goes into a column 'text'")
    return text


def _text(column: str, value: object) -> str:
    text = _string(column, value)
    if not text.strip():
        raise RowProblem(f"'{column}' is empty")
    return text


def _string(column: str, value: object) -> str:
    if value is None:
        raise RowProblem(f"'{column}' is null")
    if not isinstance(value, str):
        raise RowProblem(f"'{column}' must be a string, got {describe(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        broken = ascii(value[error.start])
        raise RowProblem(f"'{column}' holds half of a surrogate pair, {broken}") from None
    return value


def _parsed(column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise RowProblem(
            f"'{column}' must be a list of messages, got text that is not JSON"
        ) from None


_CHECKS = {
    "messages": _check_messages,
    "prompt-completion": _check_pair,
    "instruction": _check_instruction,
    "text": _check_text,
    "preference": _check_preference,
}
