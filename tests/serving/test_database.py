"""Keys and feedback: what was acknowledged is there, whoever else writes, and foreign files are refused."""

import contextlib
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from factorlm.errors import InputError, IntegrityError
from factorlm.serving.database import Database, Feedback
from factorlm.serving.jobs import OverloadedError
from factorlm.serving.tables import SCHEMA

SAID = Feedback(
    tenant="ann",
    response_id="cmpl-1",
    prompt="The food was",
    text=" bad\x00.\n",
    thumb="down",
    edit=" góod.",
    comment="too rude",
    setting={"factors": {"kind": {"strength": 0.2}}, "guides": {}},
    model="tiny",
    choice=2,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "server.sqlite"


def test_what_was_kept_is_there_after_a_restart(path: Path) -> None:
    with Database(path) as database:
        number = database.add_feedback(SAID)
        secret = database.create_key("phone", "ann", ["generate"])
    with Database(path) as database:
        [kept] = database.feedback()
        key = database.find_key(secret)
        database.check()
    assert kept.created.endswith("+00:00")
    assert replace(kept, created="") == replace(SAID, id=number)
    assert key is not None
    assert (key.tenant, key.scopes) == ("ann", ("read", "generate"))


def test_the_file_is_for_its_owner_and_has_no_secret(path: Path) -> None:
    with Database(path) as database:
        secret = database.create_key("phone", "ann", ["admin"])
        files = list(path.parent.iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        content = b"".join(file.read_bytes() for file in files)
    assert b"phone" in content
    assert secret.encode() not in content
    assert secret.removeprefix("flm_").encode() not in content


def test_every_connection_writes_through_to_the_disk(path: Path) -> None:
    with Database(path) as database, database._change() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked] == ["wal", 2, 1]


def test_feedback_is_listed_in_pages_and_by_tenant(path: Path) -> None:
    with Database(path) as database:
        numbers = [database.add_feedback(replace(SAID, tenant=tenant)) for tenant in ("ann", "bob", "ann", "ann")]
        assert [one.id for one in database.feedback("ann")] == [numbers[0], *numbers[2:]]
        assert [one.id for one in database.feedback("ann", after=numbers[0], limit=1)] == [numbers[2]]
        assert [one.id for one in database.feedback(after=numbers[1])] == numbers[2:]
        assert database.delete_feedback(numbers[:3], tenant="ann") == 2
        assert [one.id for one in database.feedback()] == [numbers[1], numbers[3]]
        assert (database.count_feedback(), database.count_feedback("bob")) == (2, 1)
        assert database.delete_feedback(range(1000, 3000)) == 0


def test_numbers_are_not_used_twice(path: Path) -> None:
    with Database(path) as database:
        first = database.add_feedback(SAID)
        database.delete_feedback([first])
    with Database(path) as database:
        assert database.add_feedback(SAID) > first


def test_threads_do_not_lose_each_others_feedback(path: Path) -> None:
    with Database(path) as database:
        kept: list[int] = []

        def give(thread: int) -> None:
            for number in range(20):
                kept.append(database.add_feedback(replace(SAID, prompt=f"{thread} {number}")))
                database.feedback(limit=1)
                database.has_keys()

        threads = [threading.Thread(target=give, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = database.feedback()
        assert sorted(kept) == [one.id for one in found]
        assert {one.prompt for one in found} == {f"{thread} {number}" for thread in range(8) for number in range(20)}
        database.check()


def test_two_processes_write_to_one_file(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from factorlm.serving.database import Database, Feedback\n"
        "with Database(Path(sys.argv[1])) as database:\n"
        "    for number in range(30): database.add_feedback(Feedback(prompt=sys.argv[2] + str(number), thumb='up'))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    with Database(path) as database:
        assert {one.prompt for one in database.feedback()} == {name + str(n) for name in "ab" for n in range(30)}


def test_a_change_that_fails_leaves_nothing(path: Path) -> None:
    with Database(path) as database:
        with contextlib.suppress(ZeroDivisionError), database._change() as connection:
            connection.exec_driver_sql("INSERT INTO tenants VALUES ('eve', 'now')")
            _ = 1 / 0
        with database._read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM tenants").scalar() == 0


def test_feedback_of_no_tenant_cannot_be(path: Path) -> None:
    with Database(path) as database:
        with pytest.raises(IntegrityError, match="FOREIGN KEY"), database._change() as connection:
            connection.exec_driver_sql(
                "INSERT INTO feedback (created, tenant, response_id, prompt, text, setting, model, choice) "
                "VALUES ('', 'nobody', '', '', '', '{}', '', 0)"
            )
        assert database.count_feedback() == 0


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"thumb": "sideways"}, "up or down"),
        ({"tenant": "../ann"}, "small letters"),
        ({"tenant": "ann\n"}, "small letters"),
        ({"tenant": ""}, "small letters"),
        ({"setting": {"a": float("nan")}}, "finite numbers"),
        ({"setting": {"a": b"bytes"}}, "JSON object"),
        ({"prompt": "half \ud83d"}, "UTF-8"),
        ({"setting": {"a": "half \ud83d"}}, "UTF-8"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(path: Path, changes: dict, wanted: str) -> None:
    with Database(path) as database:
        with pytest.raises(InputError, match=wanted) as caught:
            database.add_feedback(replace(SAID, **changes))
        assert "\n" not in str(caught.value)
        assert database.count_feedback() == 0


def test_tables_of_another_form_are_refused_and_left_alone(path: Path) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"form {SCHEMA + 1}, and this release knows form {SCHEMA}"):
        Database(path)
    assert path.read_bytes() == before


def test_databases_of_others_are_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute(f"PRAGMA user_version={SCHEMA}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="another program"):
        Database(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello, this is no database at all", b"SQLite format 3\x00" + b"\xff" * 500])
def test_files_that_are_no_database_are_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="no sound database"):
        Database(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_found(path: Path) -> None:
    with Database(path) as database:
        for _ in range(100):
            database.add_feedback(replace(SAID, text="x" * 500))
    with path.open("r+b") as file:
        file.seek(4 * 4096)
        file.write(b"\xee" * 8192)
    with Database(path) as database, pytest.raises(IntegrityError, match=r"damaged|cannot be used"):
        database.check()


def test_a_file_that_others_hold_is_busy_not_broken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factorlm.serving.tables.PATIENCE_S", 0.05)
    with Database(path) as database:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(OverloadedError, match="locked"):
                database.add_feedback(SAID)
            assert database.feedback() == [], "reading needs no lock"
        finally:
            holder.close()
        assert database.add_feedback(SAID)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Database(tmp_path / "file" / "server.sqlite")
