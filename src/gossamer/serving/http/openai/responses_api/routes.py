"""The routes of OpenAI's responses: made, looked up and deleted."""

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.body import read_past
from gossamer.serving.http.context import Context
from gossamer.serving.http.openai.chat import calling
from gossamer.serving.http.openai.generate import Route, answer
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.responses_api.items import OutputItems
from gossamer.serving.http.openai.responses_api.reply import ResponsesReply
from gossamer.serving.http.openai.responses_api.store import ResponseStore, StoredResponse
from gossamer.serving.http.openai.responses_api.translate import to_chat
from gossamer.serving.http.openai.sizes import SizeLimits

router = APIRouter()


@dataclass(slots=True)
class _Call:
    """One call of the route, from its body to its reply."""

    store: ResponseStore
    tenant: str
    request_id: str
    request: dict[str, Any] = field(default_factory=dict)
    num_characters: int = 0
    """The length of the request as JSON, which is found out where it may take time."""

    def parse(self, values: dict[str, Any], limits: SizeLimits) -> ChatBody:
        body, self.request = to_chat(values, limits, self._history)
        self.num_characters = len(json.dumps(self.request))
        return body

    def reply(self, **fields: Any) -> ResponsesReply:
        given = {name: value for name, value in self.request.items() if not name.endswith("input")}
        items = OutputItems(self.request_id)
        return ResponsesReply(**fields, request=given, keep=self._keep, items=items)

    def _history(self, response_id: str) -> list[dict[str, Any]]:
        return self.store.find(self.tenant, response_id).items

    def _keep(self, response: dict[str, Any]) -> None:
        if self.request.get("store", True):
            items = [*self.request["input"], *response["output"]]
            size = self.num_characters + len(json.dumps(response["output"]))
            stored = StoredResponse(response, self.request["new_input"], items, size)
            self.store.keep(self.tenant, stored)


@router.post("/v1/responses")
async def create_response(http: Request) -> Response:
    """Answer a text or a list of items, going on from an earlier response if one is named."""
    context = Context.of(http)
    call = _Call(context.responses, caller_of(http).tenant, http.state.request_id)
    rules = partial(calling.rules, context.call_parser)
    return await answer(http, Route(call.parse, call.reply, context.encoder.chat, rules))


@router.get("/v1/responses/{response_id}")
async def show_response(http: Request, response_id: str) -> JSONResponse:
    """Show a response that is stored."""
    store = Context.of(http).responses
    return JSONResponse(store.find(caller_of(http).tenant, response_id).response)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(http: Request, response_id: str) -> JSONResponse:
    """List the items that the call of a stored response has sent."""
    items = Context.of(http).responses.find(caller_of(http).tenant, response_id).new_input
    return JSONResponse(
        {"object": "list", "data": items, "first_id": None, "last_id": None, "has_more": False}
    )


@router.delete("/v1/responses/{response_id}")
async def delete_response(http: Request, response_id: str) -> JSONResponse:
    """Forget a response that is stored."""
    await read_past(http)
    Context.of(http).responses.delete(caller_of(http).tenant, response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})
