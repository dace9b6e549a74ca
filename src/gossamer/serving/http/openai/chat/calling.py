"""Joins the tools of a request with how the served model calls them."""

from collections.abc import Sequence

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.answers import AnswerRules
from gossamer.serving.http.openai.chat.bounds import MAX_CALLS
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.tokenization.tool_calls.families import CallParser


def opening(parser: CallParser, body: ChatBody) -> str:
    """Return the text with which the answer has to begin: the marker of a call that is required."""
    return parser.family.opening if body.tool_choice.mode == "required" else ""


def rules(parser: CallParser, body: ChatBody, prompts: Sequence[Sequence[int]]) -> AnswerRules:
    """Return how the answers to `body` are read; `prompts` holds its token ids.

    Raises `ApiError` 400 for a call that is required.
    """
    offered = body.offered_tools
    if not offered:
        return AnswerRules()
    if body.tool_choice.mode == "required":
        raise ApiError(
            400,
            "'tool_choice' that requires a call is not supported yet; leave it at 'auto'",
            code="unsupported_parameter",
            param="tool_choice",
        )
    names = frozenset(tool.name for tool in body.callable_tools)
    tools = [tool.as_dict for tool in offered]
    return AnswerRules(
        readers=parser.readers(tools, names, prompts[0]),
        new_id=parser.new_id,
        max_calls=MAX_CALLS if body.parallel_tool_calls else 1,
        sampling={"kept_special_tokens": parser.kept_special_tokens},
    )
