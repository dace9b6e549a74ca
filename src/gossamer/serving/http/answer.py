"""The way of every generating call: body, token ids, engine requests, reply or stream."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gossamer.errors import UnknownModelError
from gossamer.serving.http.access import caller_of, check_model, unknown_model
from gossamer.serving.http.body import read_object
from gossamer.serving.http.connection import unless_gone
from gossamer.serving.http.context import Context
from gossamer.serving.http.encode import TokenIds
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.generation import Generation
from gossamer.serving.http.plan import plan
from gossamer.serving.http.replies import Choice, ReplyFormat, Usage
from gossamer.serving.http.schema import GenerationBody
from gossamer.serving.http.stream import EventStream
from gossamer.serving.messages import Tokens
from gossamer.serving.vocabulary import vocabulary_of

Body = TypeVar("Body", bound=GenerationBody)


async def answer(
    http: Request,
    schema: type[Body],
    reply_type: type[ReplyFormat],
    encode: Callable[[Body], Awaitable[list[TokenIds]]],
) -> Response:
    """Answer one call, streamed or not. Errors are raised; nothing of the call is left behind."""
    context = Context.of(http)
    clock = context.metrics.clock()
    body = schema.parse(await read_object(http, context.settings.max_body_bytes))
    _check_choices(body.num_prompts * body.n, context.settings.max_choices)
    reply = reply_type(
        reply_id=reply_type.prefix + http.state.request_id,
        model=body.model,
        created=int(time.time()),
        has_logprobs=body.num_logprobs is not None,
        vocabulary=vocabulary_of(context.engine.tokenizer),
    )

    caller = caller_of(http)
    check_model(caller, body.model, context.engine)

    async def work() -> Response:
        prompts = await encode(body)
        requests = plan(
            body,
            prompts,
            reply_id=reply.reply_id,
            model_name=context.engine.model_name,
            max_context=context.engine.max_context,
            tenant=caller.tenant,
        )
        generation = Generation(context.engine, requests, clock)
        try:
            generation.start()
        except UnknownModelError:
            # The engine's message knows nothing of the base model, and may suggest names that are
            # not the caller's to know.
            raise unknown_model(caller, body.model, context.engine) from None
        try:
            if not body.stream:
                return await _whole(generation, reply, body, len(requests))
            # The status is sent with the first event, so a refusal can still become one.
            await generation.first()
        except BaseException:
            generation.cancel()
            raise
        return EventStream(
            generation,
            reply,
            Usage(body.n),
            include_usage=body.include_usage,
            request_id=http.state.request_id,
        )

    return await unless_gone(http.receive, work())


async def _whole(
    generation: Generation, reply: ReplyFormat, body: GenerationBody, num_choices: int
) -> Response:
    choices = [Choice(index) for index in range(num_choices)]
    usage = Usage(body.n)
    async for batch in generation.batches():
        for index, event in batch:
            if isinstance(event, Tokens):
                choices[index].add(event)
            else:
                choices[index].finish_reason = event.finish_reason
                usage.add(index, event)
    return JSONResponse(reply.reply(choices, usage))


def _check_choices(count: int, limit: int) -> None:
    if count > limit:
        raise ApiError(
            400,
            f"the call asks for {count} choices (prompts times 'n'); at most {limit} are allowed",
            code="invalid_value",
            param="n",
        )
