"""A small client for attempts against a server: it sends anything, and gives back whatever came."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from factorlm.errors import InputError

PATIENCE_S = 30.0  # for one answer
MOST_READ = 1 << 20  # bytes of an answer


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        status: of HTTP; 0 where the connection broke or nothing came in time.
        content: of the body, as text.
        seconds: until it was there.
    """

    status: int
    content: str
    seconds: float

    @property
    def json(self) -> Any:
        """The body, or None if it is no JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


@dataclass(frozen=True)
class Client:
    """Sends requests to one server.

    Attributes:
        url: of it.
        key: that it wants, if it wants one.
        patience_s: seconds to wait for an answer.
    """

    url: str
    key: str = ""
    patience_s: float = PATIENCE_S

    def send(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Reply:
        """Send a request whose path goes out exactly as it stands.

        Raises:
            InputError: if the address is none.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"the address of a server is needed, such as http://127.0.0.1:8000, got {self.url!r}")
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = connect(parts.hostname, parts.port, timeout=self.patience_s)
        headers = {"Content-Type": kind} if body is not None else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        start = time.monotonic()
        try:
            connection.putrequest(method, parts.path.rstrip("/") + path, skip_accept_encoding=True)
            for name, value in {**headers, "Content-Length": str(len(body or b""))}.items():
                connection.putheader(name, value)
            # It may hang up on a body that is too long; what it said is still there then.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read(MOST_READ).decode("utf-8", errors="replace")
            return Reply(answer.status, content, time.monotonic() - start)
        except (OSError, http.client.HTTPException):
            return Reply(0, "", time.monotonic() - start)
        finally:
            connection.close()

    def post(self, path: str, body: object) -> Reply:
        """Send an object in JSON; numbers that are not finite go out as Python writes them."""
        return self.send("POST", path, json.dumps(body).encode())
