"""Joins the tools of a request with how the served model calls them."""

from collections.abc import Sequence
from typing import Any

from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.http.openai.chat.answers import AnswerRules
from gossamer.serving.http.openai.chat.bounds import MAX_CALLS
from gossamer.serving.http.openai.chat.tools import Tool
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.tokenization.tool_calls.families import CallParser
from gossamer.serving.tokenization.tool_calls.forced import ForcedReader


def opening(parser: CallParser, body: ChatBody) -> str:
    """Return the text with which the answer has to begin: the marker of a call that is required."""
    return parser.opening if body.tool_choice.mode == "required" else ""


def rules(parser: CallParser, body: ChatBody, prompts: Sequence[Sequence[int]]) -> AnswerRules:
    """Return how the answers to `body` are read; `prompts` holds its token ids.

    A call that is required is one JSON object behind the marker that the prompt ends with; the
    engine lets nothing else be generated.
    """
    offered = body.offered_tools
    if not offered:
        return AnswerRules()
    names = frozenset(tool.name for tool in body.callable_tools)
    if body.tool_choice.mode == "required":
        schema = call_schema(body.callable_tools, parser.family.arguments_key)
        form = StructuredOutputs(json=schema, asked_as="tools")
        return AnswerRules(
            readers=lambda: ForcedReader(names),
            new_id=parser.new_id,
            max_calls=1,
            sampling={"structured_outputs": form},
        )
    return AnswerRules(
        readers=parser.readers([tool.as_dict for tool in offered], names, prompts[0]),
        new_id=parser.new_id,
        max_calls=MAX_CALLS if body.parallel_tool_calls else 1,
        sampling={"kept_special_tokens": parser.kept_special_tokens},
    )


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
            place: _moved(tool.parameters, f"#/$defs/{place}")
            for place, tool in zip(places, tools, strict=True)
        },
    }


def _moved(schema: Any, place: str) -> Any:
    """Copy a schema so that its references hold where it stands at `place` of another."""
    if isinstance(schema, dict):
        return {
            key: (
                place + value[1:]
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else _moved(value, place)
            )
            for key, value in schema.items()
        }
    return [_moved(each, place) for each in schema] if isinstance(schema, list) else schema
