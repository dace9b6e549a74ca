"""The body of POST /studio/api/ask: some columns, and one way to sample for all of them."""

from typing import Any

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.request_schema import ChatBody
from gossamer.serving.http.openai.sizes import SizeLimits

MAX_COLUMNS = 8
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")
"""What may be said of all columns together; a column has a model and its messages."""


def parse_columns(values: dict[str, Any], limits: SizeLimits) -> list[ChatBody | ApiError]:
    """Read the columns; one that makes no sense becomes the error that is shown in its place.

    Raises `ApiError` 400 for a body that makes no sense as a whole.
    """
    for key in values:
        if key not in ("columns", *SAMPLING):
            raise ApiError(400, f"unknown field '{cut(key)}'", code="unknown_field", param=cut(key))
    columns = values.get("columns")
    if not isinstance(columns, list) or not 1 <= len(columns) <= MAX_COLUMNS:
        raise ApiError(
            400,
            f"'columns' must be a list of 1 to {MAX_COLUMNS} objects with model and messages",
            code="invalid_value",
            param="columns",
        )
    sampling = {key: values[key] for key in SAMPLING if key in values}
    return [_parse(column, sampling, limits) for column in columns]


def _parse(column: Any, sampling: dict[str, Any], limits: SizeLimits) -> ChatBody | ApiError:
    if not isinstance(column, dict) or column.keys() != {"model", "messages"}:
        return ApiError(
            400, "a column has 'model' and 'messages'", code="invalid_value", param="columns"
        )
    try:
        return ChatBody.parse({**column, **sampling}, limits)
    except ApiError as error:
        return error
