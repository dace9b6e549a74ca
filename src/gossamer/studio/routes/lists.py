"""Pages of lists as OpenAI's clients ask for them and read them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from starlette.requests import Request

from gossamer.errors import cut, unknown_name_message
from gossamer.jobs.store.scoped import PageAsk
from gossamer.serving.http.errors import ApiError

MAX_LIMIT = 10_000
ORDERS: Mapping[str, Literal["asc", "desc"]] = {
    "asc": "asc",
    "desc": "desc",
    "ascending": "asc",
    "descending": "desc",
}
PAGING = ("limit", "after", "order")


def page_ask(http: Request, *, limit: int, more: Iterable[str] = ()) -> PageAsk:
    """Read which page is asked for; `limit` is the default, `more` are other known parameters.

    Raises `ApiError` 400.
    """
    query = http.query_params
    refuse_unknown(http, (*PAGING, *more), maps=more)
    order = query.get("order", "desc")
    if order not in ORDERS:
        raise wrong_value("order", order, "asc or desc")
    return PageAsk(
        limit=whole_number(http, "limit", default=limit, most=MAX_LIMIT),
        after=query.get("after"),
        order=ORDERS[order],
    )


def refuse_unknown(http: Request, known: Sequence[str], *, maps: Iterable[str] = ()) -> None:
    """Raise `ApiError` 400 for a parameter that is not known; those of `maps` may have a key
    in brackets."""
    for name in http.query_params:
        if name not in known and not name.startswith(tuple(f"{each}[" for each in maps)):
            message = unknown_name_message("parameter", name, known)
            raise ApiError(400, message, code="unknown_parameter", param=cut(name))


def whole_number(http: Request, name: str, *, default: int, most: int) -> int:
    """Read a parameter that is a number of 1 to `most`; raises `ApiError` 400."""
    text = http.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,10}", text) or not 1 <= int(text) <= most:
        raise wrong_value(name, text, f"a whole number of 1 to {most}")
    return int(text)


def wrong_value(name: str, value: str, wanted: str) -> ApiError:
    """Build the error for a parameter that must be as `wanted` says."""
    message = f"'{name}' = '{cut(value)}' must be {wanted}"
    return ApiError(400, message, code="invalid_value", param=name)


def as_list(entries: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Make the answer that holds a page."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


def metadata_filter(http: Request) -> tuple[dict[str, str], bool]:
    """Read `metadata[k]=v` and `metadata=null`: the pairs, and whether there must be none."""
    pairs = {}
    for name, value in http.query_params.multi_items():
        if (match := re.fullmatch(r"metadata\[([^\]]{1,64})\]", name)) is not None:
            pairs[match[1]] = value
        elif name.startswith("metadata["):
            raise wrong_value("metadata", name, "given as metadata[key]=value")
    plain = http.query_params.get("metadata")
    if plain is not None and plain != "null":
        raise wrong_value("metadata", plain, "null, or given as metadata[key]=value")
    return pairs, plain == "null"
