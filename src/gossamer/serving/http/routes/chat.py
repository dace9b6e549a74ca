"""POST /v1/chat/completions."""

from fastapi import APIRouter, Request, Response

from gossamer.serving.http.answer import Route, answer
from gossamer.serving.http.chat_reply import ChatReply
from gossamer.serving.http.context import Context
from gossamer.serving.http.schema import ChatBody

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(http: Request) -> Response:
    """Answer a conversation."""
    return await answer(http, Route(ChatBody, ChatReply, Context.of(http).encoder.chat))
