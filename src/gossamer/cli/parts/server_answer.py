"""What a server says to a command, and its errors as ours."""

from typing import TYPE_CHECKING, Any

from gossamer.errors import ServingError, cut

if TYPE_CHECKING:
    import httpx


def server_answer(response: "httpx.Response") -> Any:
    """Return the JSON of an answer; raises `ServingError` with the server's own sentence."""
    try:
        body = response.json()
    except ValueError:
        raise ServingError(
            f"{response.url} answers with status {response.status_code} and no JSON"
        ) from None
    if response.status_code < 400:
        return body
    message = str(body.get("error", {}).get("message", f"status {response.status_code}"))
    if response.status_code == 404 and "no such route" in message:
        message = "the server was started without --jobs"
    raise ServingError(cut(message, 1000))
