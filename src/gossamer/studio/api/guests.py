"""Who may call the page's own routes: the page is open to all, what it shows is not."""

from fastapi import Request

from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.keys import Caller


def require_caller(http: Request) -> Caller:
    """Return who calls. Raises `ApiError` 401 where a key is needed and none was shown."""
    caller = caller_of(http)
    is_known = caller.is_admin or caller.key_id is not None
    if Context.of(http).settings.needs_key and not is_known:
        raise ApiError(401, "sign in with an API key first", code="invalid_api_key")
    return caller
