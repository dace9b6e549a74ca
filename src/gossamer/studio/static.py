"""Serves the page: one document for every view, and its files under an address of their content.

What a reader finds in `page/` is what the browser runs; nothing is built. The files lie under a
version that is a digest of them all, so that browsers may keep them for ever, and the document that
names the version is never kept.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

PAGE = Path(__file__).parent / "page"
CATALOGUE = Path(__file__).parents[1] / "jobs" / "catalogue.json"
BASE = "@BASE@"
"""Stands in the document where the address of the files goes."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may load and do: its own files, and calls to its own server. A text that a model, a
file or a stranger wrote can become neither script nor markup."""

SAFE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FOR_EVER = "public, max-age=31536000, immutable"
WORTH_PACKING = 1_000
"""The bytes from which on a file is sent compressed."""

mimetypes.add_type("text/javascript", ".js")


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page in both forms in which it is sent."""

    content: bytes
    packed: bytes | None
    """Compressed; None where that would not pay."""
    media_type: str


@dataclass(frozen=True, slots=True)
class Page:
    """The document and its files, read once."""

    document: PageFile
    files: dict[str, PageFile]
    version: str
    """Digest of the files."""


@cache
def load_page() -> Page:
    """Read the page from the package."""
    contents = {
        path.relative_to(PAGE).as_posix(): path.read_bytes()
        for path in sorted(PAGE.rglob("*"))
        if path.is_file() and path.name != "index.html"
    }
    contents["catalogue.json"] = CATALOGUE.read_bytes()
    contents["page.css"] = b"\n".join(contents[name] for name in _style_sheets(contents))
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}:{len(content)}:".encode() + content)
    version = digest.hexdigest()[:16]
    html = (PAGE / "index.html").read_text("utf-8").replace(BASE, f"/studio/static/{version}")
    return Page(
        document=_file("index.html", html.encode("utf-8")),
        files={name: _file(name, content) for name, content in contents.items()},
        version=version,
    )


def _style_sheets(names: Iterable[str]) -> list[str]:
    """Order the sheets that are sent as one: others' first, then what all of ours build on."""
    sheets = [name for name in names if name.endswith(".css")]
    return sorted(sheets, key=lambda name: (name.startswith("css/"), name != "css/base.css", name))


def _file(name: str, content: bytes) -> PageFile:
    media_type = mimetypes.guess_type(name)[0] or "text/plain"
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    packed = gzip.compress(content, mtime=0) if len(content) >= WORTH_PACKING else None
    return PageFile(content, packed, media_type)


def page_router() -> APIRouter:
    """Make the routes of the page. Include them after all other routes below /studio."""
    router = APIRouter(include_in_schema=False)
    reading = ["GET", "HEAD"]
    router.add_api_route("/studio", _to_the_page, methods=reading)
    router.add_api_route("/studio/static/{version}/{name:path}", _static, methods=reading)
    router.add_api_route("/studio/{view:path}", _document, methods=reading)
    return router


async def _to_the_page() -> Response:
    return RedirectResponse("/studio/", status_code=307)


async def _static(http: Request, version: str, name: str) -> Response:
    page = load_page()
    file = page.files.get(name)
    if version != page.version or file is None:
        raise HTTPException(404)
    return _answer(http, file, cache_control=FOR_EVER)


async def _document(http: Request, view: str) -> Response:
    if view.startswith(("api/", "static/")):
        raise HTTPException(404)
    return _answer(http, load_page().document, cache_control="no-cache")


def _answer(http: Request, file: PageFile, *, cache_control: str) -> Response:
    headers = {**SAFE_HEADERS, "Cache-Control": cache_control, "Vary": "Accept-Encoding"}
    content = file.content
    if file.packed is not None and "gzip" in http.headers.get("accept-encoding", ""):
        content = file.packed
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=file.media_type, headers=headers)
