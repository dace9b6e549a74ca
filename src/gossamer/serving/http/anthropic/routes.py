"""The routes of Anthropic's interface: messages, and how many tokens one would take."""

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gossamer.errors import GossamerError
from gossamer.serving.http.anthropic.errors import error_response
from gossamer.serving.http.anthropic.reply import MessagesReply
from gossamer.serving.http.anthropic.translate import to_chat
from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.body import decode, read_body
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError, to_api_error
from gossamer.serving.http.openai.chat import calling
from gossamer.serving.http.openai.chat.field_names import THE_SAME, FieldNames
from gossamer.serving.http.openai.generate import Route, answer, find_model
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.sizes import SizeLimits

router = APIRouter()


@dataclass(slots=True)
class _Call:
    """One call of the route, from its body to its reply."""

    context: Context
    stops: tuple[str, ...] = ()
    names: FieldNames = THE_SAME

    def parse(self, values: dict[str, Any], limits: SizeLimits) -> ChatBody:
        body, self.names = to_chat(values, limits)
        self.stops = body.stop
        return body

    def reply(self, **fields: Any) -> MessagesReply:
        hidden = _special_texts(self.context) if self.stops else {}
        return MessagesReply(**fields, names=self.names, stops=self.stops, hidden=hidden)


def _special_texts(context: Context) -> dict[int, str]:
    """The texts of special tokens by their ids, but for those that answers are read by."""
    added = getattr(context.engine.tokenizer, "added_tokens_decoder", {})
    kept = context.call_parser.kept_special_tokens
    return {id_: each.content for id_, each in added.items() if each.special and id_ not in kept}


@router.post("/v1/messages")
async def create_message(http: Request) -> Response:
    """Answer a conversation in Anthropic's form."""
    context = Context.of(http)
    call = _Call(context)
    rules = partial(calling.rules, context.call_parser)
    # These clients have to send a limit, and send that of a large model whatever is served.
    chat = context.encoder.chat
    route = Route(call.parse, call.reply, chat, rules, cuts_length=True)
    return await _shaped(http, answer(http, route))


@router.post("/v1/messages/count_tokens")
async def count_tokens(http: Request) -> Response:
    """Count the tokens of a conversation in Anthropic's form."""
    return await _shaped(http, _count(http))


async def _shaped(http: Request, work: Awaitable[Response]) -> Response:
    """Do `work`; what it raises is answered in Anthropic's shape."""
    try:
        return await work
    except (ApiError, GossamerError) as error:
        return error_response(to_api_error(error, http.state.request_id))


async def _count(http: Request) -> Response:
    context, caller = Context.of(http), caller_of(http)
    run = partial(context.threads.run, caller.tenant)
    with context.intake.enter(caller.tenant) as incoming:
        content = await read_body(http, context.settings.max_body_bytes, incoming.hold)

        def parse() -> tuple[ChatBody, FieldNames]:
            return to_chat(decode(content), context.limits, is_counted=True)

        async def rest() -> int:
            body, names = await run(parse)
            await find_model(context, caller, body.model)
            [turn] = context.encoder.chat(body)
            try:
                [prompt] = await run(turn)
            except ApiError as error:
                raise names.renamed(error) from None
            return len(prompt)

        count = await run_unless_disconnected(http.receive, rest())
    return JSONResponse({"input_tokens": count})
