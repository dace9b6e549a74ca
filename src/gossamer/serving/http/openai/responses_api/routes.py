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
from gossamer.serving.http.json_text import json_bytes
from gossamer.serving.http.openai.chat import calling
from gossamer.serving.http.openai.chat.bounds import invalid
from gossamer.serving.http.openai.chat.field_names import THE_SAME, FieldNames
from gossamer.serving.http.openai.generate import Route, answer
from gossamer.serving.http.openai.intake import Intake
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.responses_api.items import OutputItems
from gossamer.serving.http.openai.responses_api.reply import ResponsesReply
from gossamer.serving.http.openai.responses_api.store import ResponseStore, StoredResponse
from gossamer.serving.http.openai.responses_api.translate import to_chat
from gossamer.serving.http.openai.sizes import SizeLimits

router = APIRouter()


@dataclass(slots=True, weakref_slot=True)
class _Call:
    """One call of the route, from its body to its reply.

    It lives as long as the answer is generated, so of what was sent it holds only what is repeated
    or stored.
    """

    store: ResponseStore
    intake: Intake
    tenant: str
    request_id: str
    request: dict[str, Any] = field(default_factory=dict)
    """The fields that the response repeats."""
    earlier: bytes = b""
    """The stored items that the call goes on from, not copied."""
    new_input: bytes = b""
    names: FieldNames = THE_SAME

    def parse(self, values: dict[str, Any], limits: SizeLimits) -> ChatBody:
        body, given, self.names = to_chat(values, limits, self._history)
        new_input = given.pop("input")
        try:
            # A response repeats them; written here, since long ones take time.
            kept = len(json_bytes(given))
            if given.get("store", True):
                self.new_input = json_bytes(new_input)
            else:
                self.earlier = b""
        except ValueError:
            # Such as 1e999, which is read as infinite.
            raise invalid("body", "a number in the body is too large to be written again") from None
        self.intake.keep(self, self.tenant, kept + len(self.new_input))
        self.request = given
        return body

    def reply(self, **fields: Any) -> ResponsesReply:
        items = OutputItems(self.request_id)
        told: dict[str, Any] = {"request": self.request, "keep": self._keep, "names": self.names}
        return ResponsesReply(**fields, **told, items=items)

    def _history(self, response_id: str) -> list[dict[str, Any]]:
        found = self.store.find(self.tenant, response_id, "previous_response_id")
        self.earlier = found.items
        items: list[dict[str, Any]] = json.loads(self.earlier)
        return items

    def _keep(self, response: dict[str, Any]) -> None:
        if self.request.get("store", True):
            # Each is a list of at least one item.
            lists = [self.earlier, self.new_input, json_bytes(response["output"])]
            items = b"[" + b",".join(each[1:-1] for each in lists if each) + b"]"
            written = json_bytes(response)
            stored = StoredResponse(response["id"], written, self.new_input, items)
            self.store.keep(self.tenant, stored)


@router.post("/v1/responses")
async def create_response(http: Request) -> Response:
    """Answer a text or a list of items, going on from an earlier response if one is named."""
    context = Context.of(http)
    tenant, request_id = caller_of(http).tenant, http.state.request_id
    call = _Call(context.responses, context.intake, tenant, request_id)
    rules = partial(calling.rules, context.call_parser)
    return await answer(http, Route(call.parse, call.reply, context.encoder.chat, rules))


@router.get("/v1/responses/{response_id}")
async def show_response(http: Request, response_id: str) -> Response:
    """Show a response that is stored."""
    found = Context.of(http).responses.find(caller_of(http).tenant, response_id)
    return Response(found.response, media_type=JSONResponse.media_type)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(http: Request, response_id: str) -> Response:
    """List the items that the call of a stored response has sent."""
    found = Context.of(http).responses.find(caller_of(http).tenant, response_id)
    rest = b',"first_id":null,"last_id":null,"has_more":false}'
    content = b'{"object":"list","data":' + found.new_input + rest
    return Response(content, media_type=JSONResponse.media_type)


@router.delete("/v1/responses/{response_id}")
async def delete_response(http: Request, response_id: str) -> JSONResponse:
    """Forget a response that is stored."""
    await read_past(http)
    Context.of(http).responses.delete(caller_of(http).tenant, response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})
