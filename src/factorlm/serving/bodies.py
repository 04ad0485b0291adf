"""What comes in, before anything reads it: a body that is not too large, JSON that is JSON, and under which host."""

from __future__ import annotations

import ipaddress
import json

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from factorlm.serving.complaints import complaint
from factorlm.serving.settings import ServerSettings


class Gate:
    """Pure ASGI middleware, so that streams pass through it untouched.

    Attributes:
        app: what comes behind it.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limits = self.settings.limits
        most = limits.upload_bytes if scope["method"] == "PUT" else limits.body_bytes
        told = headers.get("content-length", "0")
        if told.isdecimal() and int(told) > most:
            await _too_large(most)(scope, receive, send)
        elif _is_json(headers):
            await self._json(scope, receive, send, most)
        else:
            await self._counted(scope, receive, send, most)

    async def _json(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            if len(body) > most:
                await _too_large(most)(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        if body:
            try:
                found = from_json(bytes(body), allow_inf_nan=False, cache_strings=False)
                json.dumps(found, allow_nan=False)  # refuses numbers that overflowed, such as 1e999
            except ValueError as error:
                said = f"JSON in UTF-8 with finite numbers is needed: {error}"
                await complaint(400, said, code="invalid_json")(scope, receive, send)
                return
        is_given = False

        async def again() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, again, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        """A body that is read as it comes; one that grows too large ends as if the client had gone."""
        size, is_replaced = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return {"type": "http.disconnect"} if size > most else message

        async def replaced(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and size > most:
                is_replaced = True
                await _too_large(most)(scope, receive, send)
            elif not is_replaced:
                await send(message)

        await self.app(scope, counted, replaced)


def is_near(host: str) -> bool:
    """Whether a Host header names this machine, or a name without dots, which nobody can own in the public net.

    A page from elsewhere whose name was turned to this machine (DNS rebinding) could use a server without keys; but it
    cannot choose what its browser says of the host.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.strip("[]").rstrip(".")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return "." not in name or name.endswith(".localhost")


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _too_large(most: int) -> Response:
    return complaint(413, f"a body of at most {most:,} bytes is read; send less", headers={"Connection": "close"})
