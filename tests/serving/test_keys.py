"""Keys: who may do what, that nothing of a secret is kept or told, and when nobody needs one."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from factorlm.errors import InputError
from factorlm.serving.database import Database
from factorlm.serving.keys import SCOPES, SECRET_PATTERN, Caller, digest_of, implied, is_same, secret_of

from .conftest import Served

Get = Callable[..., httpx.Response]
# One route of each scope.
ROUTES = {"read": ("GET", "/v1/factors"), "generate": ("POST", "/v1/feedback"), "admin": ("GET", "/v1/feedback")}


@pytest.fixture
def database(tmp_path: Path):  # noqa: ANN201
    with Database(tmp_path / "server.sqlite") as found:
        yield found


def ask(server: Served, scope: str, **headers: str) -> httpx.Response:
    method, path = ROUTES[scope]
    body = {"prompt": "a", "text": "b", "thumb": "up"} if method == "POST" else None
    return server.client.request(method, path, json=body, headers=headers)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_secret_has_its_form_and_is_new_each_time(database: Database) -> None:
    secrets = {database.create_key("x", "ann", ["read"]) for _ in range(50)}
    assert len(secrets) == 50
    assert all(re.fullmatch(r"flm_[A-Za-z0-9_-]{43}", secret) for secret in secrets)
    assert all(re.fullmatch(SECRET_PATTERN, secret) for secret in secrets)


def test_only_the_very_secret_opens(database: Database) -> None:
    secret = database.create_key("x", "ann", ["read"])
    assert database.find_key(secret)
    for other in (secret[:-1], secret + "a", secret.swapcase(), digest_of(secret), "", "flm_", "half \ud83d"):
        assert database.find_key(other) is None
    assert is_same(digest_of(secret), secret)
    assert not is_same(digest_of(secret), secret.swapcase())


def test_a_revoked_key_is_listed_and_opens_nothing(database: Database) -> None:
    secret = database.create_key("x", "ann", ["read"])
    [key] = database.list_keys()
    assert database.revoke(key.id)
    assert not database.revoke(key.id)
    assert not database.revoke(99)
    assert database.find_key(secret) is None
    assert database.list_keys()[0].revoked
    assert database.has_keys(), "a server does not open when its last key is taken back"


def test_scopes_imply_those_before() -> None:
    assert implied(["read"]) == ("read",)
    assert implied(["admin"]) == implied(["read", "admin"]) == SCOPES
    for scopes in ([], ["write"], ["read", "Admin"]):
        with pytest.raises(InputError):
            implied(scopes)


@pytest.mark.parametrize(
    ("name", "tenant", "scopes"),
    [
        ("", "ann", ["read"]),
        ("a\nb", "ann", ["read"]),
        ("x" * 101, "ann", ["read"]),
        ("x", "Ann", ["read"]),
        ("x", "a/b", ["read"]),
        ("x", "..", ["read"]),
        ("x", "a" * 65, ["read"]),
        ("x", "ann", []),
        ("x", "ann", ["all"]),
    ],
)
def test_keys_that_cannot_be(database: Database, name: str, tenant: str, scopes: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        database.create_key(name, tenant, scopes)
    assert "\n" not in str(caught.value)
    assert database.list_keys() == []


@pytest.mark.parametrize(
    ("header", "is_key"),
    [
        ("Bearer flm_" + "a" * 43, True),
        ("bearer  flm_" + "a" * 43 + " ", True),
        ("Basic flm_" + "a" * 43, False),
        ("Bearer sk-" + "a" * 43, False),
        ("flm_" + "a" * 43, False),
        ("Bearer flm_" + "a" * 44, False),
        ("", False),
        (None, False),
    ],
)
def test_headers(header: str | None, is_key: bool) -> None:
    assert secret_of(header) == ("flm_" + "a" * 43 if is_key else None)


@pytest.mark.parametrize("held", SCOPES)
def test_a_key_opens_what_its_scope_allows(server: Served, held: str) -> None:
    secret = server.database.create_key("x", "ann", [held])
    for needed in SCOPES:
        answer = ask(server, needed, **bearer(secret))
        if SCOPES.index(held) >= SCOPES.index(needed):
            assert answer.status_code == 200, answer.text
        else:
            assert answer.status_code == 403
            assert f"the scope {needed}" in answer.json()["error"]["message"]


def test_without_keys_everybody_on_this_machine_may_do_everything(server: Served) -> None:
    for scope in SCOPES:
        assert ask(server, scope).status_code == 200
        assert ask(server, scope, **bearer("sk-none")).status_code == 200, "clients of OpenAI always send something"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.1"])
@pytest.mark.parametrize("secret", [None, "sk-none", "flm_" + "a" * 43])
def test_an_open_server_does_not_answer_under_names_of_strangers(server: Served, host: str, secret: str | None) -> None:
    headers = bearer(secret) if secret else {}
    for scope in SCOPES:
        assert ask(server, scope, Host=host, **headers).status_code == 401


def test_with_the_first_key_the_server_closes(server: Served) -> None:
    secret = server.database.create_key("x", "ann", ["admin"])
    for wrong in ({}, bearer("sk-none"), bearer(secret[:-1] + "~"), {"Authorization": f"Basic {secret}"}):
        answer = ask(server, "read", **wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert error["code"] == "invalid_api_key"
        assert secret[:10] not in answer.text
    server.database.revoke(server.database.list_keys()[0].id)
    assert ask(server, "read").status_code == 401
    assert ask(server, "read", **bearer(secret)).status_code == 401


def test_a_key_reaches_its_tenant_only(server: Served) -> None:
    ann, bob = (bearer(server.database.create_key("x", tenant, ["admin"])) for tenant in ("ann", "bob"))
    assert ask(server, "generate", **ann).json() == {"id": 1}
    assert len(server.client.get("/v1/feedback", headers=ann).json()["data"]) == 1
    assert server.client.get("/v1/feedback", headers=bob).json()["data"] == []
    assert server.client.delete("/v1/feedback", params={"ids": [1]}, headers=bob).json() == {"deleted": 0}
    assert server.client.delete("/v1/feedback", params={"ids": [1]}, headers=ann).json() == {"deleted": 1}


def test_callers_are_plain_data() -> None:
    assert Caller("ann", 1, ("read",)) == Caller("ann", 1, ("read",))
