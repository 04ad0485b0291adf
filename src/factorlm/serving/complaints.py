"""Errors as clients see them: a status, and one line in the shape that OpenAI's clients read."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from factorlm.errors import FactorlmError, IncompatibleError, InputError, IntegrityError, UnknownNameError
from factorlm.serving.jobs import OverloadedError

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}  # what OpenAI calls them; others are invalid requests below 500, else of the server
LONGEST = 500  # characters of a message
SHOWN_COMPLAINTS = 3  # about one body
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
PARTS = ("body", "query", "path", "header")  # of a request, as FastAPI names them

log = logging.getLogger("factorlm.serving")


class Complaint(BaseModel):
    """What was wrong.

    Attributes:
        message: what was wanted, what came and what to do, in one line.
        type: of error.
        param: the field that it is about, if it is about one.
        code: for programs, where there is one.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class ComplaintBody(BaseModel):
    """The body of every answer that is not a success."""

    error: Complaint


class RefusedError(FactorlmError):
    """A request that is answered with a status of its own.

    Attributes:
        status: of HTTP.
        param: the field of the request that it is about, if it is about one.
        code: for programs, such as "context_length_exceeded".
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ComplaintBody, "description": "The request cannot be used; the message says why."},
    401: {"model": ComplaintBody, "description": "A key is needed, or this one is not known."},
    403: {"model": ComplaintBody, "description": "The key may not do this."},
    404: {"model": ComplaintBody, "description": "There is nothing of this name."},
    413: {"model": ComplaintBody, "description": "The body is too large."},
    429: {
        "model": ComplaintBody,
        "description": "Too much at once; try again later.",
        "headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}},
    },
    500: {"model": ComplaintBody, "description": "An error of the server."},
    504: {"model": ComplaintBody, "description": "It took too long."},
}  # for the OpenAPI document of every route


def complaint(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An answer that complains."""
    return JSONResponse(as_object(status, message, param=param, code=code), status, headers)


def as_object(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of a complaint."""
    kind = KINDS.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    error = Complaint(message=one_line(message), type=kind, param=param, code=code)
    return ComplaintBody(error=error).model_dump()


def complaint_of(error: FactorlmError, hidden: Mapping[str, str], *, is_path: bool = False) -> JSONResponse:
    """The answer to a request that ended in an error of ours.

    Args:
        error: what happened.
        hidden: places on this machine, and what clients are told in their stead.
        is_path: whether a part of the path names something, so that an unknown name means that it is not there.
    """
    headers: dict[str, str] = {}
    status, param, code = 500, None, None
    match error:
        case RefusedError():
            status, param, code, headers = error.status, error.param, error.code, error.headers
        case OverloadedError():
            status, code = 429, "overloaded"
            headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        case UnknownNameError():
            status, code = (404 if is_path else 400), "unknown_name"
        case InputError() | IncompatibleError() | IntegrityError():
            status = 400
    message = str(error)
    for place, name in hidden.items():
        message = message.replace(place, name)
    return complaint(status, message, param=param, code=code, headers=headers)


def one_line(text: str) -> str:
    """A message without line breaks, or what UTF-8 cannot carry."""
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def about_body(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """What pydantic says of a request, in one line, and the field that it says first something of."""
    told: list[str] = []
    for item in errors:
        # The forms of a field, such as <list>, are no fields of the body.
        place = [str(part) for part in item["loc"] if part not in PARTS and not str(part).startswith("<")]
        told.append(_about_field(item, place))
    first = next((str(part) for part in (errors[0]["loc"] if errors else ()) if part not in PARTS), None)
    return "; ".join(dict.fromkeys(told[:SHOWN_COMPLAINTS])), first


def _about_field(item: Mapping[str, Any], place: list[str]) -> str:
    message, where, shown = str(item["msg"]), ".".join(place), repr(item.get("input"))[:80]
    message = f"{message[:1].lower()}{message[1:]}"
    match item["type"]:
        case "extra_forbidden":
            return f"{where} is not known here; leave it out"
        case "unsupported":
            return f"{where} is not honoured here, got {shown}; leave it out"
        case "missing":
            return f"{where or 'a body in JSON'} is needed, got none"
        case "value_error":
            return message.removeprefix("value error, ")
        case "json_invalid":
            return f"JSON is needed: {item.get('ctx', {}).get('error', item['msg'])}"
        case "string_pattern_mismatch" if place[-1:] == ["[key]"]:
            pattern = item.get("ctx", {}).get("pattern")
            return f"{'.'.join(place[:-2])}: a name that matches {pattern} is needed, got {shown}"
        case _ if not place:
            return f"a JSON object, sent as application/json, is needed as the body, got {shown}"
    return f"{where}: {message}, got {shown}"


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What is for the path of a request; a path of its own comes before one with a name in it."""
    own = app.openapi()["paths"].get(request.url.path, {})
    if own:
        return {method.upper() for method in own}
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return {m for m, scope in scopes.items() if any(r.matches(scope)[0] is Match.FULL for r in app.routes)}


def install(app: FastAPI) -> None:
    """Answer every error in this shape."""

    @app.exception_handler(FactorlmError)
    async def ours(request: Request, error: FactorlmError) -> JSONResponse:
        return complaint_of(error, request.app.state.hidden, is_path=bool(request.path_params))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = about_body(error.errors())
        return complaint(400, message, param=param, code="invalid")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404 and message == "Not Found":
            message = f"there is nothing at {request.url.path[:80]}; /openapi.json lists what there is"
        if error.status_code == 405:
            allowed = ", ".join(sorted(_methods(app, request)))
            message = f"{allowed} {'are' if ',' in allowed else 'is'} for {request.url.path[:80]}, got {request.method}"
            return complaint(405, message, headers={"Allow": allowed})
        return complaint(error.status_code, message, headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__, exc_info=error)
        return complaint(500, "something went wrong in the server; its log has more")
