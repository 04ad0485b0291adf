"""API keys: what they look like, what they allow, and how a request shows that it holds one.

Only the sha256 of a key is kept. That is enough for a secret of 256 random bits, which nobody can guess or look up.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastapi import Request

from factorlm.errors import InputError, UnknownNameError
from factorlm.serving.bodies import is_near
from factorlm.serving.complaints import RefusedError

SCOPES = ("read", "generate", "admin")  # each allows what those before it do
PREFIX = "flm_"
SECRET_PATTERN = r"flm_[A-Za-z0-9_-]{43}"
LOCAL = "local"  # the tenant of a server that only its own machine can reach, and that has no keys
LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class Key:
    """What is known of a key; not the key itself.

    Attributes:
        id: its number.
        name: what people call it.
        tenant: whose factors and feedback it reaches.
        scopes: all that it allows, of SCOPES.
        created: when, in UTC.
        revoked: when it was taken back, in UTC; empty while it is good.
    """

    id: int
    name: str
    tenant: str
    scopes: tuple[str, ...]
    created: str
    revoked: str = ""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        tenant: whose factors and feedback it reaches.
        key_id: number of its key; 0 where none is needed.
        scopes: all that it may do, of SCOPES.
    """

    tenant: str
    key_id: int
    scopes: tuple[str, ...]


def new_secret() -> str:
    """A key that nobody has had before: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def is_same(digest: str, secret: str) -> bool:
    """Whether a key is the one that was kept; how long that takes tells nothing."""
    return hmac.compare_digest(digest.encode(), digest_of(secret).encode())


def implied(scopes: Iterable[str]) -> tuple[str, ...]:
    """All that these scopes allow, in order.

    Raises:
        InputError: if there is none, or one that is not known.
    """
    wanted = list(scopes)
    for scope in wanted:
        if scope not in SCOPES:
            raise UnknownNameError.of("scope", scope, SCOPES)
    if not wanted:
        raise InputError(f"a key needs a scope, got none; take one of {', '.join(SCOPES)}")
    return SCOPES[: max(map(SCOPES.index, wanted)) + 1]


def check_key_name(name: str) -> str:
    """The name of a key without blanks around it.

    Raises:
        InputError: if it is empty, too long or cannot be shown on one line.
    """
    plain = name.strip()
    if not plain or len(plain) > LONGEST_NAME or not plain.isprintable():
        raise InputError(f"a key's name is one line of 1 to {LONGEST_NAME} characters, got {plain[:40]!r}; shorten it")
    return plain


def secret_of(authorization: str | None) -> str | None:
    """The key in a header of the form `Bearer KEY`; None where there is none, or nothing that could be one."""
    kind, _, secret = (authorization or "").strip().partition(" ")
    secret = secret.strip()
    return secret if kind.lower() == "bearer" and re.fullmatch(SECRET_PATTERN, secret) else None


def caller_of(request: Request) -> Caller:
    """Who sends a request.

    As long as no key was ever made, everybody on this machine may do everything on a server that no other machine
    can reach. Keys that were revoked still count as made: a server does not open when its last key is taken back.

    Raises:
        RefusedError: 401 if a key is needed and none, or an unknown one, came.
    """
    database, settings = request.app.state.database, request.app.state.settings
    given = request.headers.get("authorization")
    secret = secret_of(given)
    if secret is not None and (key := database.find_key(secret)) is not None:
        return Caller(key.tenant, key.id, key.scopes)
    if settings.is_loopback and not database.has_keys():
        if is_near(request.headers.get("host", "")):
            return Caller(LOCAL, 0, SCOPES)
        raise _unknown("a key is needed under a host's name that is not of this machine; send it as Authorization")
    if not given:
        raise _unknown("an API key is needed, got none; send Authorization: Bearer flm_...")
    raise _unknown("this API key is not known, or was revoked; ask whoever runs the server for another")


def require(scope: str) -> Callable[[Request], Caller]:
    """A dependency of a route: who asks, if they may.

    Raises:
        RefusedError: from the dependency: 401 without a good key, 403 if the key lacks the scope.
    """
    assert scope in SCOPES

    def check(request: Request) -> Caller:
        caller = caller_of(request)
        if scope not in caller.scopes:
            raise RefusedError(
                403,
                f"this needs a key with the scope {scope}, got one for {' and '.join(caller.scopes)}; make one with "
                f"factorlm serve keys create NAME --scope {scope}",
                code="scope",
            )
        return caller

    return check


def _unknown(message: str) -> RefusedError:
    return RefusedError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
