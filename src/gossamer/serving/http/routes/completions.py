"""POST /v1/completions."""

from fastapi import APIRouter, Request, Response

from gossamer.serving.http.answer import Route, answer
from gossamer.serving.http.completion_reply import CompletionReply
from gossamer.serving.http.context import Context
from gossamer.serving.http.schema import CompletionBody

router = APIRouter()


@router.post("/v1/completions")
async def completions(http: Request) -> Response:
    """Continue one prompt or several."""
    encoder = Context.of(http).encoder
    return await answer(http, Route(CompletionBody, CompletionReply, encoder.prompts))
