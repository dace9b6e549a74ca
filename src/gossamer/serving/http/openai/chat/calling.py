"""Joins the tools of a request with how the served model calls them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.answers import AnswerRules
from gossamer.serving.http.openai.chat.bounds import MAX_CALLS
from gossamer.serving.http.openai.chat.moved_schema import moved
from gossamer.serving.http.openai.chat.tools import Tool
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.tokenization.tool_calls.families import CallParser
from gossamer.serving.tokenization.tool_calls.forced import ForcedReader


def opening(parser: CallParser, body: ChatBody) -> str:
    """Return the text with which the answer has to begin: the marker of a call that is required."""
    return parser.opening if body.tool_choice.mode == "required" else ""


def rules(parser: CallParser, body: ChatBody, prompts: Sequence[Sequence[int]]) -> AnswerRules:
    """Return how the answers to `body` are read; `prompts` holds its token ids.

    A call that is required is a JSON object behind the marker that the prompt ends with; the engine
    lets nothing else be generated than that, or several where several may be made. Where calls may
    be made and a form is asked for, an answer is calls, or has the form.

    Raises `ApiError` 400 for a form beside tools of a model of whose calls no grammar is made.
    """
    offered = body.offered_tools
    if not offered:
        return _plain_rules(parser, body, prompts)
    names = frozenset(tool.name for tool in body.callable_tools)
    if body.tool_choice.mode == "required":
        schema = call_schema(body.callable_tools, parser.family.arguments_key)
        is_one = body.tool_choice.is_one or not body.parallel_tool_calls
        frame = None if is_one else parser.required_calls()
        form = StructuredOutputs(json=schema, frame=frame, asked_as="tools")
        return AnswerRules(
            readers=lambda: ForcedReader(names),
            new_id=parser.new_id,
            max_calls=1 if frame is None else MAX_CALLS,
            sampling={"structured_outputs": form},
        )
    sampling: dict[str, Any] = {"kept_special_tokens": parser.kept_special_tokens}
    if body.form is not None:
        sampling["structured_outputs"] = _beside_calls(parser, body, body.form, names)
    shown = [tool.as_dict for tool in offered]
    return AnswerRules(
        readers=parser.readers(shown, names, prompts[0], is_kept=body.form is not None),
        new_id=parser.new_id,
        max_calls=MAX_CALLS if body.parallel_tool_calls else 1,
        sampling=sampling,
    )


def _plain_rules(
    parser: CallParser, body: ChatBody, prompts: Sequence[Sequence[int]]
) -> AnswerRules:
    """How answers are read that call nothing: their thoughts come apart if they are described."""
    # What has a form has no marks, and who asks for special tokens wants the text as it is.
    if not parser.is_described or body.form is not None or not body.skip_special_tokens:
        return AnswerRules()
    return AnswerRules(
        readers=parser.readers([], frozenset(), prompts[0]),
        sampling={"kept_special_tokens": parser.kept_special_tokens},
    )


def _beside_calls(
    parser: CallParser, body: ChatBody, form: StructuredOutputs, names: frozenset[str]
) -> StructuredOutputs:
    frame = parser.calls_or_form(names, only_one=not body.parallel_tool_calls)
    if frame is None:
        field = form.asked_as
        raise ApiError(
            400,
            f"'{field}' and 'tools': no grammar is made of how this model calls ('{parser.name}'), "
            "so its answers cannot be kept to a form or a call; leave one of them out, or set "
            "'tool_choice' to none or required",
            code="invalid_value",
            param=field,
        )
    return replace(form, frame=frame)


def call_schema(tools: Sequence[Tool], arguments_key: str) -> dict[str, Any]:
    """Return the JSON Schema of a call of one of `tools`, arguments under `arguments_key`."""
    places = [f"tool{number}" for number in range(len(tools))]
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.name},
                    arguments_key: {"$ref": f"#/$defs/{place}"},
                },
                "required": ["name", arguments_key],
                "additionalProperties": False,
            }
            for place, tool in zip(places, tools, strict=True)
        ],
        "$defs": {
            place: moved(tool.parameters, f"#/$defs/{place}")
            for place, tool in zip(places, tools, strict=True)
        },
    }
