"""The SQLite file: its tables, how it is made and opened, and which files are refused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, ForeignKey, create_engine, event
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from factorlm.errors import InputError, IntegrityError

APPLICATION = 0x666C6D73  # what SQLite calls the kind of a file
SCHEMA = 1  # number of the form of the tables; raised with each change of it
PATIENCE_S = 10.0  # that a change waits for those of other processes
MOST_CONNECTIONS = 40  # as many as the server has threads for requests


class Table(DeclarativeBase):
    """Base of the tables."""


class TenantRow(Table):
    """Whose factors and feedback are kept apart."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[str]


class KeyRow(Table):
    """A key; see `keys.Key`."""

    __tablename__ = "keys"
    __table_args__ = ({"sqlite_autoincrement": True},)  # no number is used twice

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    digest: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[str]
    created: Mapped[str]
    revoked: Mapped[str] = mapped_column(default="")


class FeedbackRow(Table):
    """What somebody said; see `database.Feedback`."""

    __tablename__ = "feedback"
    __table_args__ = ({"sqlite_autoincrement": True},)  # no number is used twice

    id: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[str]
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), index=True)
    response_id: Mapped[str]
    prompt: Mapped[str]
    text: Mapped[str]
    thumb: Mapped[str | None]
    edit: Mapped[str | None]
    comment: Mapped[str | None]
    setting: Mapped[str]  # JSON
    model: Mapped[str]
    choice: Mapped[int]


def open_engine(path: Path) -> Engine:
    """Connections to the file, each set so that what it commits is on the disk."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": PATIENCE_S, "check_same_thread": False},
        pool_size=MOST_CONNECTIONS,
        max_overflow=0,
        pool_timeout=PATIENCE_S,
    )

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so, not at the first change
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("factorlm_begin", "BEGIN"))

    return engine


def prepare(path: Path) -> None:
    """Make the file and its tables if they are not there, readable to its owner only; refuse what is not ours.

    Raises:
        IntegrityError: if the file is no database, or is damaged.
        InputError: if its tables are of another form, or it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another --state") from None
    try:
        with _closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # two servers may be starting
            asked = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            kind, form, num_tables = (connection.execute(query).fetchone()[0] for query in asked)
            if num_tables == 0:
                for statement in _statements():
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={APPLICATION}")
                connection.execute(f"PRAGMA user_version={SCHEMA}")
            elif kind != APPLICATION:
                raise InputError(f"{path} is a database of another program; choose another --state")
            elif form != SCHEMA:
                raise InputError(
                    f"{path} has tables of form {form}, and this release knows form {SCHEMA}; use the release that "
                    "wrote it, or another --state"
                )
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        raise InputError(f"{path} cannot be used now: {error}; see to its rights, or wait for other servers") from None
    except sqlite3.DatabaseError as error:
        raise IntegrityError(
            f"{path} is no sound database: {error}; put a copy back, or choose another --state"
        ) from None


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()


def _statements() -> Iterator[str]:
    """What makes the tables."""
    for table in Table.metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect()))
        for index in sorted(table.indexes, key=lambda i: str(i.name)):
            yield str(CreateIndex(index).compile(dialect=dialect()))
