"""Answers every generating call: body, token ids, engine requests, reply or stream.

Whatever grows with the size of a request is done on threads that tenants use in turn; the event
loop only passes it on.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gossamer.errors import AdapterError, GossamerError, UnknownModelError
from gossamer.serving.core.adapter import AnyAdapter, adapters_in
from gossamer.serving.core.interface import PreparingEngine
from gossamer.serving.core.messages import DEFAULT_TENANT, SamplingParams, Tokens
from gossamer.serving.core.messages import Request as EngineRequest
from gossamer.serving.http.auth import allowed, caller_of, may_name, may_use_found, unknown_model
from gossamer.serving.http.body import decode, read_body
from gossamer.serving.http.calls.record import record_of
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError, to_api_error
from gossamer.serving.http.json_text import json_bytes
from gossamer.serving.http.openai.channel import Channel
from gossamer.serving.http.openai.chat.answers import AnswerRules
from gossamer.serving.http.openai.chat.field_names import THE_SAME
from gossamer.serving.http.openai.intake import IncomingCall
from gossamer.serving.http.openai.request_schema import (
    MAX_SEED,
    CompletionBody,
    GenerationBody,
    StreamOptions,
)
from gossamer.serving.http.openai.responses import Choice, ReplyFormat, Usage, likeliest
from gossamer.serving.http.openai.sizes import SizeLimits, check_length
from gossamer.serving.http.openai.sse import EventStream
from gossamer.serving.http.openai.tokenize import TokenIds, Turn
from gossamer.serving.keys import Caller
from gossamer.serving.tokenization.vocabulary import vocabulary_of


def plan(
    body: GenerationBody,
    prompts: list[TokenIds],
    *,
    reply_id: str,
    model_name: str,
    max_context: int,
    tenant: str = DEFAULT_TENANT,
    rules: AnswerRules | None = None,
    cuts_length: bool = False,
) -> list[EngineRequest]:
    """Plan requests in the order of the choices: all of the first prompt, then of the second.

    The base model's own name asks for no adapter. Raises `ApiError` 400 for a prompt that is
    empty or leaves no room in the context.
    """
    new_tokens = [_new_tokens(body, prompt, max_context, cuts=cuts_length) for prompt in prompts]
    for prompt, new in zip(prompts, new_tokens, strict=True):
        check_length(len(prompt), new, max_context)
    adapter = None if body.model == model_name else body.model
    samplings = [
        replace(_sampling(body, choice), **(rules.sampling if rules else {}))
        for choice in range(body.num_drawn)
    ]
    return [
        EngineRequest(
            request_id=f"{reply_id}-{number * body.num_drawn + choice}",
            prompt_token_ids=prompt,
            adapter=adapter,
            sampling=replace(sampling, max_tokens=new_tokens[number]),
            tenant=tenant,
            priority=body.priority,
        )
        for number, prompt in enumerate(prompts)
        for choice, sampling in enumerate(samplings)
    ]


def _new_tokens(
    body: GenerationBody, prompt: TokenIds, max_context: int, *, cuts: bool
) -> int | None:
    """The most new tokens that are asked for; None: as many as there is room for."""
    asked = body.new_tokens
    if cuts and asked is not None and asked > max(max_context - len(prompt), 0):
        # What an adapter puts before the prompt, and the memory, may leave less than the context.
        return None
    return asked


def _sampling(body: GenerationBody, choice: int) -> SamplingParams:
    # Seeds count up per choice and start again for each prompt, so that a prompt gives the same
    # whether it is sent alone or among others. Negative ones, which OpenAI allows, wrap round.
    seed = None if body.seed is None else (body.seed + choice) & MAX_SEED
    return SamplingParams(
        max_tokens=body.new_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=max(body.top_k, 0),
        min_p=body.min_p,
        seed=seed,
        stop=body.stop,
        stop_token_ids=body.stop_token_ids,
        include_stop=body.include_stop_str_in_output,
        ignore_eos=body.ignore_eos,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=body.logit_bias,
        bad_words=body.bad_words,
        skip_special_tokens=body.skip_special_tokens,
        logprobs=0 if _ranks(body) and body.num_logprobs is None else body.num_logprobs,
        prompt_logprobs=body.num_prompt_logprobs,
        structured_outputs=body.form,
    )


def _ranks(body: GenerationBody) -> bool:
    """Whether more choices are drawn than are answered."""
    return body.num_drawn > body.n


Body = TypeVar("Body", bound=GenerationBody)

SHORT_REPLY = 1_000
"""The most tokens, or log-probabilities, of a reply that is quickly written."""


@dataclass(frozen=True, slots=True)
class Route(Generic[Body]):
    """The parts of a call that each route does its own way."""

    parse: Callable[[dict[str, Any], SizeLimits], Body]
    """Reads the decoded body."""
    reply_type: Callable[..., ReplyFormat]
    """Makes what builds the replies, of the fields of `ReplyFormat`."""
    turns: Callable[[Body], list[Turn]]
    """The turns of work that encode a body; making the list is quick."""
    rules: Callable[[Body, list[TokenIds]], AnswerRules] = lambda body, prompts: AnswerRules()
    """How the answers to a body and its prompts are read."""
    cuts_length: bool = False
    """Whether a call may ask for more new tokens than the context leaves, and gets those."""


_Unsubmitted = tuple[list[EngineRequest], "Future[object]"]
"""Requests of a form, and what to wait for before they are submitted."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call that the engine works on. Holds nothing of its body, which may be large."""

    channel: Channel
    reply: ReplyFormat
    usage: Usage
    is_streamed: bool
    options: StreamOptions
    num_answered: int
    """The choices per prompt that are answered: the likeliest of those drawn."""


async def answer(http: Request, route: Route[Body]) -> Response:
    """Answer one call, streamed or not. Errors are raised; nothing of the call is left behind."""
    begun = await _begin(http, route)
    with _told(http, begun.reply):
        return await run_unless_disconnected(http.receive, _end(http, begun))


@contextmanager
def _told(http: Request, reply: ReplyFormat) -> Iterator[None]:
    """Let errors name the fields that the client sent, which may be those of another interface."""
    try:
        yield
    except (ApiError, GossamerError) as error:
        raise reply.names.renamed(to_api_error(error, http.state.request_id)) from None


async def _begin(http: Request, route: Route[Body]) -> _Begun:
    context, tenant = Context.of(http), caller_of(http).tenant
    channel = Channel(context.engine, context.metrics.call_timer(record_of(http)))
    with context.intake.enter(tenant) as incoming:
        body = await read_body(http, context.settings.max_body_bytes, incoming.hold)
        try:
            return await run_unless_disconnected(
                http.receive, _submit(http, route, body, incoming, channel)
            )
        except BaseException:
            channel.cancel()
            raise


async def _submit(
    http: Request, route: Route[Body], content: bytes, incoming: IncomingCall, channel: Channel
) -> _Begun:
    context, caller = Context.of(http), caller_of(http)
    engine = context.engine
    run = partial(context.threads.run, caller.tenant)

    def read() -> tuple[Body, list[Turn]]:
        body = route.parse(decode(content), context.limits)
        return body, route.turns(body)

    body, turns = await run(read)
    record = record_of(http)
    record.model, record.is_streamed = body.model, body.stream
    reply = route.reply_type(
        reply_id=http.state.request_id,
        model=body.model,
        created=int(time.time()),
        has_logprobs=body.num_logprobs is not None,
        vocabulary=vocabulary_of(context.engine.tokenizer),
        prompt_logprobs=body.prompt_logprobs,
    )
    reply.reply_id = reply.prefix + reply.reply_id
    if reply.names is THE_SAME:
        reply.names = body.names

    def begin(prompts: list[TokenIds], adapter: AnyAdapter | None) -> _Unsubmitted | None:
        prompts += turns[-1]()
        if isinstance(body, CompletionBody) and body.echo:
            reply.echo = context.encoder.echo(body, prompts)
        reply.rules = route.rules(body, prompts)
        requests = plan(
            body,
            prompts,
            reply_id=reply.reply_id,
            model_name=engine.model_name,
            max_context=engine.max_context,
            tenant=caller.tenant,
            rules=reply.rules,
            cuts_length=route.cuts_length,
        )
        form = requests[0].sampling.structured_outputs
        if form is not None and isinstance(engine, PreparingEngine):
            # Compiling it may take seconds, in which this thread is for other calls.
            return requests, engine.prepare(form)
        submit(requests, prompts, adapter)
        return None

    def submit(
        requests: list[EngineRequest], prompts: list[TokenIds], adapter: AnyAdapter | None
    ) -> None:
        incoming.move_on()
        record.submitted = time.perf_counter()
        record.choices, record.prompt_tokens = len(requests), sum(map(len, prompts))
        channel.submit(requests, adapter)

    prompts: list[TokenIds] = []
    with _told(http, reply):
        adapter = await find_model(context, caller, body.model)
        # Encoding the prompt and compiling the form may take seconds, in which it may be unloaded.
        channel.hold(adapter)
        for turn in turns[:-1]:
            prompts += await run(turn)
        unsubmitted = await run(partial(begin, prompts, adapter))
        if unsubmitted is not None:
            # Held until then: the engine may forget what is prepared and no longer held.
            requests, prepared = unsubmitted
            await asyncio.wrap_future(prepared)
            await run(partial(submit, requests, prompts, adapter))
    options = body.stream_options or StreamOptions()
    usage = reply.usage = Usage(body.num_drawn, sum(map(len, prompts)))
    return _Begun(channel, reply, usage, body.stream, options, body.n)


async def find_model(context: Context, caller: Caller, model: str) -> AnyAdapter | None:
    """Look up `model`, None being the base; raises the error with suggestions among what the caller
    may see."""
    engine = context.engine
    if model == engine.model_name:
        return None
    if may_name(caller, model):
        try:
            found = await asyncio.wrap_future(engine.look_up(model))
        except UnknownModelError:
            # The engine's message knows nothing of the base model, and may suggest names that are
            # not the caller's to know.
            pass
        except AdapterError:
            # Why an adapter is refused is for those to know who may use it.
            if await _is_listed(context, caller, model):
                raise
        else:
            if may_use_found(caller, model, found):
                return found
    adapters = await context.catalogue.near(model)
    compose = partial(unknown_model, caller, model, engine.model_name, adapters)
    raise await context.threads.run(caller.tenant, compose)


async def _is_listed(context: Context, caller: Caller, model: str) -> bool:
    if caller.adapters is None:
        return True
    listed = {adapter.name for adapter in allowed(caller, await context.catalogue.near(model))}
    return listed.issuperset(adapters_in(model))


async def _end(http: Request, begun: _Begun) -> Response:
    channel = begun.channel
    try:
        if not begun.is_streamed:
            return await _whole(begun)
        # The status is sent with the first event, so a refusal can still become one.
        await channel.first()
    except BaseException:
        channel.cancel()
        raise
    return EventStream(
        channel,
        begun.reply,
        begun.usage,
        options=begun.options,
        request_id=http.state.request_id,
    )


async def _whole(begun: _Begun) -> Response:
    choices = [Choice(index) for index in range(begun.channel.num_choices)]
    async for batch in begun.channel.batches():
        for index, event in batch:
            if isinstance(event, Tokens):
                choices[index].add(event)
            else:
                choices[index].finish_reason = event.finish_reason
                begun.usage.add(index, event)
    choices = likeliest(choices, begun.usage.num_choices, begun.num_answered)
    write = partial(_written, begun.reply, choices, begun.usage)
    size = sum(choice.size for choice in choices)
    content = write() if size <= SHORT_REPLY else await asyncio.to_thread(write)
    return Response(content, media_type=JSONResponse.media_type)


def _written(reply: ReplyFormat, choices: list[Choice], usage: Usage) -> bytes:
    return json_bytes(reply.reply(choices, usage))
