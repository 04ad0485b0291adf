"""The mixing desk: the page that the server shows in a browser, and what it needs to know, in one answer."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from factorlm.serving.complaints import RESPONSES, RefusedError
from factorlm.serving.desk import Desk, desk_of
from factorlm.serving.keys import Caller
from factorlm.serving.rates import counted

FOLDER = "page"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing written into the page itself, and no page of others around it.
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again by its tag
    "Vary": "Accept-Encoding",
}

router = APIRouter()


@dataclass(frozen=True)
class File:
    """A file of the page.

    Attributes:
        content: of it.
        packed: the same, in gzip.
        media_type: of it.
        tag: changes with the content.
    """

    content: bytes
    packed: bytes
    media_type: str
    tag: str


@cache
def page_files() -> dict[str, File]:
    """The files of the page by name; read once."""
    found = {}
    for place in files("factorlm.serving").joinpath(FOLDER).iterdir():
        kind = Path(place.name).suffix
        if kind in MEDIA_TYPES:
            content = place.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:20]
            found[place.name] = File(content, gzip.compress(content, 9, mtime=0), MEDIA_TYPES[kind], tag)
    return found


@router.get("/", include_in_schema=False)
async def index(request: Request) -> Response:
    """The page."""
    return _sent(request, INDEX)


@router.get("/page/{name}", include_in_schema=False)
async def page(request: Request, name: str) -> Response:
    """A file of the page; there are no others than those known by name."""
    return _sent(request, name)


def _sent(request: Request, name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise RefusedError(404, f"the page has no file {name[:80]!r}; it begins at /")
    is_packed = accepts_gzip(request.headers.get("accept-encoding", ""))
    tag = f'"{found.tag}{"-gz" if is_packed else ""}"'
    headers = {**HEADERS, "ETag": tag}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known:
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(found.packed if is_packed else found.content, headers=headers, media_type=found.media_type)


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip; a weight of zero forbids it."""
    for part in header.lower().split(","):
        name, *options = (piece.strip() for piece in part.split(";"))
        if name in ("gzip", "*"):
            return not any(re.fullmatch(r"q=0(\.0*)?", option) for option in options)
    return False


@router.get("/v1/desk", tags=["factorlm"], responses={status: RESPONSES[status] for status in (401, 403, 429)})
def desk(request: Request, caller: Annotated[Caller, Depends(counted("read"))]) -> Desk:
    """All that can be mixed: the model, factors, guides, memories, priors, and what is too much."""
    state = request.app.state
    return desk_of(state.settings, state.engine, state.workshop, state.stores.factors(caller.tenant))
