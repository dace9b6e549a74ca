"""Routes that tell what this server is: a page at /, and a description of all routes."""

import base64
import hashlib
import json
import shlex
from functools import partial
from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match

from gossamer.serving.http.auth import ANYONE, allowed
from gossamer.serving.http.catalogue import AdapterPage, AdapterPageAsk
from gossamer.serving.http.context import Context
from gossamer.serving.http.openapi import describe
from gossamer.version import VERSION

router = APIRouter()

MOST_MODELS = 50
"""The most adapters that the page names."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
pre { background: #f3f3f3; padding: 1rem; overflow-x: auto; border-radius: 6px; }
code { font-family: ui-monospace, monospace; font-size: .92em; }
a { color: #0b57d0; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #161616; } pre { background: #262626; } a { color: #8ab4f8; }
}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""The page holds no script and loads nothing; its one style sheet is known by its digest."""


@router.get("/")
async def greet(http: Request) -> HTMLResponse:
    """Show a page with the version, the models and two commands to try; needs no key."""
    context = Context.of(http)
    needs_key = context.settings.needs_key
    names, has_more = [context.engine.model_name], False
    if not needs_key:
        # Names of models are for those to know who may use them.
        ask = AdapterPageAsk("greeting", "", MOST_MODELS)
        found, has_more = await context.catalogue.page(ask, partial(allowed, ANYONE), _served)
        names += found
    has_studio = any(
        route.matches({**http.scope, "path": "/studio"})[0] is Match.FULL
        for route in http.app.routes
    )
    page = _page(
        str(http.base_url), names, has_more=has_more, needs_key=needs_key, has_studio=has_studio
    )
    return HTMLResponse(page, headers=HEADERS)


@router.get("/openapi.json")
async def openapi(http: Request) -> JSONResponse:
    """Describe all routes and the fields of their bodies as an OpenAPI document."""
    needs_key = Context.of(http).settings.needs_key
    make = partial(describe, http.app.state.routers, needs_key=needs_key)
    return JSONResponse(await run_in_threadpool(make))


def _served(page: AdapterPage) -> tuple[list[str], bool]:
    return [each.name for each in page.adapters if each.state != "refused"], page.has_more


def _page(
    address: str, names: list[str], *, has_more: bool, needs_key: bool, has_studio: bool
) -> str:
    body = json.dumps({"model": names[-1], "messages": [{"role": "user", "content": "Hello"}]})
    key = " -H 'Authorization: Bearer KEY'" if needs_key else ""
    curl = (
        f"curl {address}v1/chat/completions \\\n"
        f"  -H 'Content-Type: application/json'{key} \\\n"
        f"  -d {shlex.quote(body)}"
    )
    python = (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{address}v1", api_key="{"KEY" if needs_key else "none"}")\n'
        "reply = client.chat.completions.create(\n"
        f'    model={json.dumps(names[-1])}, messages=[{{"role": "user", "content": "Hello"}}]\n'
        ")\n"
        "print(reply.choices[0].message.content)"
    )
    if needs_key:
        models = "<p>Calls need a key; <code>GET /v1/models</code> tells what yours may use.</p>"
    else:
        models = "<ul>" + "".join(f"<li>{_code(name)}</li>" for name in names)
        if has_more:
            models += f"<li>and more in {_link('/v1/models')}</li>"
        models += "</ul>"
    links = ["/openapi.json", "/v1/models", "/metrics", "/health"]
    if has_studio:
        links.insert(0, "/studio/")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Gossamer {VERSION}</title><style>{STYLE}</style></head><body>"
        f"<h1>Gossamer {VERSION}</h1>"
        f"<p>One base model and all its adapters, over OpenAI&#x27;s interface at "
        f"{_code(address + 'v1')}.</p>"
        f"<h2>Models</h2>{models}<h2>Try it</h2><pre><code>{escape(curl)}</code></pre>"
        f"<pre><code>{escape(python)}</code></pre>"
        f"<p>{' · '.join(map(_link, links))}</p></body></html>"
    )


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _link(path: str) -> str:
    return f'<a href="{path}">{path}</a>'
