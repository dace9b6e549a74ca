"""Where the routes of an OpenAI-compatible server lie, and which models it lists."""

import httpx

from gossamer.errors import ServingError


def api_root(url: str) -> str:
    """The address under which the routes lie, with a slash at its end."""
    root = url.rstrip("/")
    return f"{root}/" if root.endswith("/v1") else f"{root}/v1/"


def key_headers(api_key: str | None) -> dict[str, str]:
    """The headers that show a key; none without one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def served_models(url: str, api_key: str | None, *, timeout: float = 30) -> list[str]:
    """Ask the server for the names of its models; wait for at most `timeout` seconds.

    Raises `ServingError` if it does not answer, or not as OpenAI's interface does.
    """
    try:
        response = httpx.get(
            f"{api_root(url)}models", headers=key_headers(api_key), timeout=timeout
        )
        response.raise_for_status()
        return [model["id"] for model in response.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServingError(f"the server at {url} does not list its models: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise ServingError(f"{url} is no OpenAI-compatible server: no list of models") from None
