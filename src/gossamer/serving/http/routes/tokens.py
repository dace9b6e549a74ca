"""Routes that tell token ids: POST /tokenize and /detokenize, with vLLM's fields."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gossamer.errors import unknown_name_message
from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.body import decode, read_body
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.generate import find_model
from gossamer.serving.http.openai.request_schema import ChatBody, parse_prompts
from gossamer.serving.http.openai.sizes import check_length
from gossamer.serving.http.openai.unsupported_fields import shown

router = APIRouter()

OF_TEXTS = ("model", "prompt", "add_special_tokens", "return_token_strs")
"""The fields of POST /tokenize for a text."""
OF_CHATS = ("model", "messages", "add_special_tokens", "return_token_strs")
"""The fields of POST /tokenize for a conversation, beside those of the template."""
OF_TEMPLATES = (
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "tools",
    "tool_choice",
)
"""The fields of a chat that say how it is laid out."""
OF_TOKENS = ("model", "tokens")
"""The fields of POST /detokenize."""

Values = dict[str, Any]


@router.post("/tokenize")
async def tokenize(http: Request) -> JSONResponse:
    """Tell the token ids of a text (`prompt`) or of a conversation (`messages`)."""
    return JSONResponse(await _answer(http, _tokenized))


@router.post("/detokenize")
async def detokenize(http: Request) -> JSONResponse:
    """Tell the text of token ids (`tokens`)."""
    return JSONResponse(await _answer(http, _detokenized))


async def _answer(http: Request, work: Callable[[Context, Values], Values]) -> Values:
    """Read a body, look its model up, and do `work` on a thread, as calls that generate do."""
    context, caller = Context.of(http), caller_of(http)
    run = partial(context.threads.run, caller.tenant)
    with context.intake.enter(caller.tenant) as incoming:
        content = await read_body(http, context.settings.max_body_bytes, incoming.hold)

        async def rest() -> Values:
            given = await run(partial(decode, content))
            values = {name: value for name, value in given.items() if value is not None}
            model = values.setdefault("model", context.engine.model_name)
            if not isinstance(model, str):
                raise _wrong("model", f"'model' = {shown(model)} must be a text")
            # All adapters have the base model's tokens; a name that is unknown is a mistake.
            await find_model(context, caller, model)
            return await run(partial(work, context, values))

        return await run_unless_disconnected(http.receive, rest())


def _tokenized(context: Context, values: Values) -> Values:
    wants_texts = _flag(values, "return_token_strs", default=False)
    tokens = (_of_chat if "messages" in values else _of_text)(context, values)
    tokenizer = context.engine.tokenizer
    return {
        "count": len(tokens),
        "max_model_len": context.engine.max_context,
        "tokens": list(tokens),
        "token_strs": tokenizer.convert_ids_to_tokens(list(tokens)) if wants_texts else None,
    }


def _of_text(context: Context, values: Values) -> tuple[int, ...]:
    _check_names(values, OF_TEXTS)
    text = values.get("prompt")
    if not isinstance(text, str):
        raise _wrong("prompt", "give a text as 'prompt', or a conversation as 'messages'")
    special = _flag(values, "add_special_tokens", default=True)
    return context.encoder.text(text, add_special_tokens=special)


def _of_chat(context: Context, values: Values) -> tuple[int, ...]:
    _check_names(values, (*OF_CHATS, *OF_TEMPLATES))
    if _flag(values, "add_special_tokens", default=False):
        raise _wrong(
            "add_special_tokens",
            "the chat template writes all special tokens of a conversation; leave "
            "'add_special_tokens' out",
        )
    fields = {name: value for name, value in values.items() if name in OF_TEMPLATES}
    chat = {"model": values["model"], "messages": values["messages"], **fields}
    (turn,) = context.encoder.chat(ChatBody.parse(chat, context.limits))
    (tokens,) = turn()
    return tokens


def _detokenized(context: Context, values: Values) -> Values:
    _check_names(values, OF_TOKENS)
    tokens = values.get("tokens")
    if not isinstance(tokens, list):
        raise _wrong("tokens", "'tokens' must be a list of token ids")
    if not tokens:
        return {"prompt": ""}
    check_length(len(tokens), 0, context.engine.max_context)
    prompts = parse_prompts(tokens)
    size = len(context.engine.tokenizer)
    if isinstance(prompts[0], str) or max(prompts[0]) >= size:
        raise _wrong("tokens", f"'tokens' must be a list of token ids, from 0 to {size - 1}")
    return {"prompt": context.engine.tokenizer.decode(prompts[0], skip_special_tokens=False)}


def _check_names(values: Values, known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            message = unknown_name_message("field", name, known)
            raise ApiError(400, message, code="unknown_parameter", param=name)


def _flag(values: Values, name: str, *, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise _wrong(name, f"'{name}' = {shown(value)} must be true or false")
    return value


def _wrong(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
