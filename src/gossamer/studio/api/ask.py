"""POST /studio/api/ask: one question to several models, answered in one batch and one stream.

All columns are submitted together, so that the engine computes them in the same steps, and their
events come back through one connection, of which a browser has few. What goes wrong with a column
stays in that column.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from fastapi import APIRouter, Request, Response

from gossamer.errors import GossamerError
from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.http.body import decode, read_body
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError, to_api_error
from gossamer.serving.http.openai.channel import Channel
from gossamer.serving.http.openai.generate import find_model, plan
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.tokenize import TokenIds
from gossamer.serving.keys import Caller
from gossamer.studio.api.ask_schema import parse_columns
from gossamer.studio.api.guests import require_caller
from gossamer.studio.api.merged import MergedStream

router = APIRouter(include_in_schema=False)


@dataclass(slots=True)
class Column:
    """One answer on its way: what is asked of whom, or why it cannot be."""

    channel: Channel
    body: ChatBody | None = None
    error: ApiError | None = None
    adapter: AnyAdapter | None = None
    prompts: list[TokenIds] = field(default_factory=list)

    def fail(self, error: ApiError) -> None:
        """Tell `error` in place of an answer; nothing is submitted, and no adapter held."""
        self.error = error
        self.channel.cancel()


@router.post("/studio/api/ask")
async def ask(http: Request) -> Response:
    """Answer a question by several models at one moment, as a stream of their pieces."""
    caller, context = require_caller(http), Context.of(http)
    columns: list[Column] = []
    with context.intake.enter(caller.tenant) as incoming:
        content = await read_body(http, context.settings.max_body_bytes, incoming.hold)
        try:
            await run_unless_disconnected(
                http.receive, _prepare(http, context, caller, content, columns)
            )
            incoming.move_on()
            submit = partial(_submit, context, caller, http.state.request_id, columns)
            await context.threads.run(caller.tenant, submit)
        except BaseException:
            for column in columns:
                column.channel.cancel()
            raise
    return MergedStream([(column.channel, column.error) for column in columns])


async def _prepare(
    http: Request, context: Context, caller: Caller, content: bytes, columns: list[Column]
) -> None:
    def parse() -> list[ChatBody | ApiError]:
        return parse_columns(decode(content), context.limits)

    for parsed in await context.threads.run(caller.tenant, parse):
        column = Column(Channel(context.engine, context.metrics.call_timer()))
        if isinstance(parsed, ApiError):
            column.error = parsed
        else:
            column.body = parsed
        columns.append(column)
    await asyncio.gather(*(_prepare_one(http, context, caller, column) for column in columns))


async def _prepare_one(http: Request, context: Context, caller: Caller, column: Column) -> None:
    if column.body is None:
        return
    try:
        column.adapter = await find_model(context, caller, column.body.model)
        column.channel.hold(column.adapter)
        for turn in context.encoder.chat(column.body):
            column.prompts += await context.threads.run(caller.tenant, turn)
    except (ApiError, GossamerError) as error:
        column.fail(to_api_error(error, http.state.request_id))


def _submit(context: Context, caller: Caller, request_id: str, columns: list[Column]) -> None:
    engine = context.engine
    for number, column in enumerate(columns):
        if column.error is not None or column.body is None:
            continue
        try:
            requests = plan(
                column.body,
                column.prompts,
                reply_id=f"ask-{request_id}-{number}",
                model_name=engine.model_name,
                max_context=engine.max_context,
                tenant=caller.tenant,
            )
            column.channel.submit(requests, column.adapter)
        except (ApiError, GossamerError) as error:
            column.fail(to_api_error(error, request_id))
