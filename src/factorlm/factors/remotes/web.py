"""A shared store behind http(s): read with GET from any web server, written with PUT where the server takes that.

WebDAV servers take PUT, and MKCOL where a folder is missing. A server that only reads can be filled by pushing to a
folder and copying that. `user:password@` in the address is sent as basic authentication, to that address only.
"""

from __future__ import annotations

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from factorlm.errors import FetchError, InputError, IntegrityError
from factorlm.factors.remotes.index import INDEX
from factorlm.factors.remotes.place import (
    MAX_INDEX_BYTES,
    MAX_TRIES,
    Plan,
    check_size,
    copy_limited,
    insecurity,
    without_secrets,
)

TIMEOUT = 30.0  # seconds without a byte
ABSENT = (404, 410)


class _Cut(Exception):
    """The connection ended too early."""


@dataclass(frozen=True)
class WebPlace:
    """A folder of a web server."""

    address: str
    authorization: str = field(default="", repr=False)

    @classmethod
    def at(cls, address: str) -> WebPlace:
        """From a URL.

        Raises:
            InputError: if it is none that files can be added to.
        """
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:  # which quotes what may be a part of a password
            host, port = None, None
        if not host or parts.query or parts.fragment or "@" in parts.path:
            raise InputError(
                f"a URL of a store is http(s)://host/path with no ?, # or @ in its path, got "
                f"{without_secrets(address)!r}; shorten it, and write ?, #, @, / of a password as %3F, %23, %40, %2F"
            )
        shown = f"[{host}]" if ":" in host else host
        bare = urlunsplit((parts.scheme.lower(), f"{shown}:{port}" if port else shown, parts.path.rstrip("/"), "", ""))
        if parts.username is None:
            return cls(bare)
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        return cls(bare, "Basic " + base64.b64encode(secret).decode())

    @property
    def warning(self) -> str:
        """That http can be changed on its way, unless the server is this machine."""
        return insecurity(self.address)

    def get(self, path: str, into: BinaryIO, limit: int) -> bool:
        """As every place does; a connection that breaks is tried once more."""
        return self._download(path, into, limit) is not None

    def names(self, folder: str) -> list[str] | None:
        """A web server need not tell."""
        return None

    def publish(self, plan: Plan) -> None:
        """As every place does; where the server gives strong ETags, a push in between is noticed."""
        for _ in range(MAX_TRIES):
            index = BytesIO()
            tag = self._download(INDEX, index, MAX_INDEX_BYTES)
            publication = plan(index.getvalue() if tag is not None else None)
            if publication is None:
                return
            for folder, files in publication.folders.items():
                for name, content in files.items():
                    self._add(f"{folder}/{name}", content, replace=publication.replace)
            if self._upload(INDEX, publication.index, _unless_changed(tag)):
                return
        raise FetchError(f"{self.address} was changed by others {MAX_TRIES} times during this push; push again")

    def _add(self, path: str, content: bytes, *, replace: bool) -> None:
        """Write a file of a version; one that is there must have the same bytes, or may be replaced.

        Raises:
            InputError: if it has others.
        """
        if self._upload(path, content, {} if replace else {"If-None-Match": "*"}):
            return
        found = BytesIO()
        try:
            is_same = self._download(path, found, len(content)) is not None and found.getvalue() == content
        except IntegrityError:  # it is longer
            is_same = False
        if not is_same:
            raise InputError(
                f"{self.address} has another {path}, and a version stands for one content; push it under a higher "
                "version, or --replace the one there"
            )

    def _download(self, path: str, into: BinaryIO, limit: int) -> str | None:
        """The ETag (empty where the server gives none), or None where there is no such file."""
        url = f"{self.address}/{path}"
        for is_last in (False, True):
            into.seek(0)
            into.truncate()
            try:
                with self._answer("GET", url, None, {}) as answer:
                    announced = answer.headers.get("Content-Length", "")
                    wanted = int(announced) if announced.isascii() and announced.isdigit() else None
                    check_size(wanted or 0, limit, url)
                    came = copy_limited(answer.read, into, limit, url)
                    if wanted is not None and came < wanted:  # which read() passes over in silence
                        raise _Cut(f"{came:,} of {wanted:,} bytes came")
                    return str(answer.headers.get("ETag", ""))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in ABSENT:
                        return None
                    raise _refusal(error, url) from None
            except _Cut as error:
                if is_last:
                    raise FetchError(f"{url} broke off twice ({error}); try again later") from None
        raise AssertionError("unreachable: the last round returns or raises")

    def _upload(self, path: str, content: bytes, headers: dict[str, str]) -> bool:
        """Write a file; False if the condition in the headers did not hold."""
        url = f"{self.address}/{path}"
        for is_last in (False, True):
            try:
                with self._answer("PUT", url, content, headers):
                    return True
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 412 and headers:
                        return False
                    if is_last or error.code not in (404, 409):
                        raise _refusal(error, url) from None
                self._make_folders(path)
            except _Cut as error:
                if is_last:
                    raise FetchError(f"{url} broke off twice ({error}); try again later") from None
        raise AssertionError("unreachable: the last round returns or raises")

    def _make_folders(self, path: str) -> None:
        """Make what is missing above a file, as WebDAV wants it."""
        folder = self.address
        for part in path.split("/"):
            try:
                with self._answer("MKCOL", f"{folder}/", None, {}):
                    pass
            except urllib.error.HTTPError as error:  # it is there, or the PUT that follows tells what is wrong
                error.close()
            except _Cut:
                pass
            folder = f"{folder}/{part}"

    @contextmanager
    def _answer(self, method: str, url: str, content: bytes | None, headers: dict[str, str]) -> Iterator[Any]:
        """An answer to read from; statuses of failure are left to the caller.

        Raises:
            urllib.error.HTTPError: for these.
            _Cut: if the connection broke.
            FetchError: if nothing can be reached.
        """
        request = urllib.request.Request(url, data=content, headers=headers, method=method)
        request.add_header("User-Agent", "factorlm")
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            with _opener().open(request, timeout=TIMEOUT) as answer:
                yield answer
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, (ConnectionError, http.client.IncompleteRead)) and not isinstance(
                reason, ConnectionRefusedError
            ):
                raise _Cut(str(reason) or type(reason).__name__) from None
            if isinstance(error, (FetchError, InputError, IntegrityError)):
                raise
            said = f"no answer within {TIMEOUT:g} s" if isinstance(reason, TimeoutError) else reason
            raise FetchError(f"{url} cannot be reached: {said}; check the address and the network") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to web servers only, and never from an encrypted one to one that is not."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        target = urlsplit(headers.get("Location", headers.get("URI", "")))
        is_weaker = urlsplit(req.full_url).scheme == "https" and target.scheme == "http"
        if target.scheme not in ("", "http", "https") or is_weaker:
            fp.close()
            raise IntegrityError(f"{req.full_url} redirects to {target.scheme}://, which is not followed; not read")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """Knows http and https only: no files, no ftp, no data URLs."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _refusal(error: urllib.error.HTTPError, url: str) -> FetchError | InputError:
    """What an error status means, and what to do."""
    status = f"{url} answers {error.code}"
    if error.code in (405, 501):
        return InputError(f"{status}: this server takes no uploads; push to a folder and copy that there")
    if error.code in (401, 403):
        return InputError(f"{status}: not allowed; give https://user:password@host/…, or ask its owner")
    if error.code // 100 == 3 and (target := error.headers.get("Location")):
        return InputError(f"{status}: it has moved to {target}; use that address")
    return FetchError(f"{status} ({error.reason}); try again later, or ask its owner")


def _unless_changed(tag: str | None) -> dict[str, str]:
    """The condition that the index is still the one that was read; weak tags cannot be compared for writing."""
    if tag is None:
        return {"If-None-Match": "*"}
    return {"If-Match": tag} if tag.startswith('"') else {}
