"""What the server must not forget: keys and feedback, in one SQLite file.

Every change is on the disk before it is acknowledged (write-ahead log, synchronous=FULL), so that neither a killed
process nor a loss of power takes back what a client was told. Any number of threads and processes may use the file.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from factorlm.errors import InputError, IntegrityError
from factorlm.serving.jobs import OverloadedError
from factorlm.serving.keys import Key, check_key_name, digest_of, implied, is_same, new_secret
from factorlm.serving.settings import TENANT_PATTERN
from factorlm.serving.tables import PATIENCE_S, FeedbackRow, KeyRow, TenantRow, open_engine, prepare
from factorlm.text import is_utf8

AT_ONCE = 500  # values in one statement
THUMBS = ("up", "down")


@dataclass(frozen=True)
class Feedback:
    """What somebody said of a response.

    Attributes:
        id: its number; 0 before it is kept. Numbers rise and none is used twice.
        created: when it was kept, in UTC.
        tenant: who said it.
        response_id: of the response that it is about.
        prompt: what the response answers.
        text: the response.
        thumb: "up" or "down", if there was one.
        edit: what the response should have been, if somebody wrote that.
        comment: in words.
        setting: what it was written with: factors, guides and so on.
        model: that wrote it.
        choice: which of the texts of the response.
    """

    id: int = 0
    created: str = ""
    tenant: str = "local"
    response_id: str = ""
    prompt: str = ""
    text: str = ""
    thumb: str | None = None
    edit: str | None = None
    comment: str | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    choice: int = 0


class Database:
    """Keys and feedback in a file, which is made if it is not there; safe to use from several threads.

    Raises:
        IntegrityError: if the file is no database of ours, or is damaged.
        InputError: if it was written by another release, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()  # between threads waiting here is cheaper than trying again in SQLite
        prepare(path)
        self._engine = open_engine(path)

    def close(self) -> None:
        """Let go of the file; what was acknowledged is in it already."""
        self._engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def create_key(self, name: str, tenant: str, scopes: Sequence[str]) -> str:
        """Make a key.

        Args:
            name: what people call it; names may repeat.
            tenant: whose factors and feedback it reaches.
            scopes: what it allows, of "read", "generate" and "admin"; each implies those before it.

        Returns:
            The key, which cannot be seen again.

        Raises:
            InputError: for a name, a tenant or a scope that cannot be used.
        """
        _check_tenant(tenant)
        values = {"name": check_key_name(name), "tenant": tenant, "scopes": " ".join(implied(scopes))}
        secret = new_secret()
        with self._change() as connection:
            _add_tenant(connection, tenant)
            connection.execute(insert(KeyRow).values(**values, digest=digest_of(secret), created=_now(), revoked=""))
        return secret

    def find_key(self, secret: str) -> Key | None:
        """The key with this secret, if there is one and it was not revoked."""
        query = select(KeyRow.__table__).where(KeyRow.digest == digest_of(secret), KeyRow.revoked == "")
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
        return _key(row) if row is not None and is_same(row.digest, secret) else None

    def has_keys(self) -> bool:
        """Whether a key was ever made, be it revoked or not."""
        with self._read() as connection:
            return connection.execute(select(KeyRow.id).limit(1)).first() is not None

    def list_keys(self) -> list[Key]:
        """Every key that was made, the oldest first, those that were revoked, too."""
        with self._read() as connection:
            return [_key(row) for row in connection.execute(select(KeyRow.__table__).order_by(KeyRow.id))]

    def revoke(self, key_id: int) -> bool:
        """Take a key back for good; whether there was such a key that was good."""
        query = update(KeyRow).where(KeyRow.id == key_id, KeyRow.revoked == "").values(revoked=_now())
        with self._change() as connection:
            return connection.execute(query).rowcount > 0

    def add_feedback(self, given: Feedback) -> int:
        """Keep what somebody said; when this returns it is on the disk.

        Args:
            given: with any id, which is not used; the time is now where it has none.

        Returns:
            Its number.

        Raises:
            InputError: for a thumb, a tenant or a setting that cannot be kept.
        """
        _check_tenant(given.tenant)
        if given.thumb not in (None, *THUMBS):
            raise InputError(f"a thumb is up or down, or none, got {given.thumb!r}")
        try:
            setting = json.dumps(dict(given.setting), ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"a setting is a JSON object with finite numbers, got another: {error}") from None
        values = {**_columns(given), "setting": setting, "created": given.created or _now()}
        if bad := [name for name, value in values.items() if isinstance(value, str) and not is_utf8(value)]:
            raise InputError(f"{bad[0]} must be text that UTF-8 can carry, got half of a character; repair it")
        with self._change() as connection:
            _add_tenant(connection, given.tenant)
            (number,) = connection.execute(insert(FeedbackRow).values(**values)).inserted_primary_key or (0,)
        return int(number)

    def feedback(self, tenant: str | None = None, after: int = 0, limit: int | None = None) -> list[Feedback]:
        """What people said, the oldest first.

        Args:
            tenant: only what this one said.
            after: only what has a greater number.
            limit: no more than that.
        """
        query = select(FeedbackRow.__table__).where(FeedbackRow.id > after).order_by(FeedbackRow.id).limit(limit)
        if tenant is not None:
            query = query.where(FeedbackRow.tenant == tenant)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [Feedback(**{**row, "setting": json.loads(row["setting"])}) for row in rows]

    def delete_feedback(self, ids: Sequence[int], tenant: str | None = None) -> int:
        """Forget feedback.

        Args:
            ids: its numbers.
            tenant: only what this one said.

        Returns:
            How many there were.
        """
        num_deleted = 0
        with self._change() as connection:
            for start in range(0, len(ids), AT_ONCE):
                query = delete(FeedbackRow).where(FeedbackRow.id.in_(ids[start : start + AT_ONCE]))
                if tenant is not None:
                    query = query.where(FeedbackRow.tenant == tenant)
                num_deleted += connection.execute(query).rowcount
        return num_deleted

    def count_feedback(self, tenant: str | None = None) -> int:
        """How much was said."""
        query = select(func.count()).select_from(FeedbackRow)
        with self._read() as connection:
            return connection.execute(
                query if tenant is None else query.where(FeedbackRow.tenant == tenant)
            ).scalar_one()

    def check(self) -> None:
        """Read the whole file.

        Raises:
            IntegrityError: if anything in it is not as it was written.
        """
        with self._read() as connection:
            found = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if found != ["ok"] or orphans:
            said = found[0] if found != ["ok"] else f"{len(orphans)} rows of no tenant"
            raise IntegrityError(f"{self.path} is damaged: {said}; put a copy back")

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        """A transaction that no other change comes into; on the disk when this is left without an error."""
        with (
            self._translated(),
            self._writing,
            self._engine.connect().execution_options(factorlm_begin="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError:
            raise OverloadedError("too much is being read from the database; try again", PATIENCE_S) from None
        except DBAPIError as error:
            said = str(error.orig)
            if isinstance(error.orig, sqlite3.OperationalError):  # locked for too long, or the disk is full
                raise OverloadedError(f"the database cannot be used now: {said}; try again", PATIENCE_S) from error
            raise IntegrityError(f"{self.path.name} cannot be used: {said}; put a copy back") from error


def _check_tenant(tenant: str) -> None:
    if not re.fullmatch(TENANT_PATTERN, tenant):
        raise InputError(f"a tenant is small letters, digits, - and _, got {tenant[:80]!r}; rename it")


def _add_tenant(connection: Connection, tenant: str) -> None:
    if connection.execute(select(TenantRow.name).where(TenantRow.name == tenant)).first() is None:
        connection.execute(insert(TenantRow).values(name=tenant, created=_now()))


def _columns(given: Feedback) -> dict[str, Any]:
    return {f.name: getattr(given, f.name) for f in fields(given) if f.name != "id"}


def _key(row: Row[Any]) -> Key:
    return Key(row.id, row.name, row.tenant, tuple(row.scopes.split()), row.created, row.revoked)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
