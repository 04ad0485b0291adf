"""The cache that makes runs resumable, data folders, and settings by recipe and --set."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.corpora import DataFolder, fingerprint
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.settings import Config, changed


def bench_in(folder: Path | None) -> Workbench:
    return Workbench((), DataFolder(Path("nowhere")), Cache(folder), lambda stage, done, total: None)


def test_a_broken_run_goes_on_where_it_was(tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    worked: list[int] = []

    def work(batch: list[int]) -> list[int]:
        if 7 in batch and len(worked) < 7:
            raise KeyboardInterrupt
        worked.extend(batch)
        return [n * n for n in batch]

    with pytest.raises(KeyboardInterrupt):
        bench.in_batches("squares", {"what": "squares"}, list(range(10)), 3, work)
    assert worked == [0, 1, 2, 3, 4, 5]
    worked.append(-1)  # lets the next batch pass
    assert bench.in_batches("squares", {"what": "squares"}, list(range(10)), 3, work) == [n * n for n in range(10)]
    assert worked[7:] == [6, 7, 8, 9]


def test_another_key_is_another_result(tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    assert bench.in_batches("x", {"power": 1}, [2], 1, lambda batch: batch) == [2]
    assert bench.in_batches("x", {"power": 2}, [2], 1, lambda batch: [4]) == [4]


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.get({"a": 1}, lambda: "first") == "first"
    [entry] = tmp_path.iterdir()
    entry.write_text(entry.read_text()[:-5])
    assert cache.get({"a": 1}, lambda: "second") == "second"
    assert cache.get({"a": 1}, lambda: "third") == "second"
    assert [p.name for p in tmp_path.iterdir()] == [entry.name]  # nothing half-written stays


def test_no_cache_keeps_nothing() -> None:
    found = iter("ab")
    cache = Cache(None)
    assert [cache.get({}, lambda: next(found)) for _ in range(2)] == ["a", "b"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="FACTORLM_CACHE"):
        Cache(tmp_path / "file" / "below").get({}, lambda: 1)


def test_progress_counts_items() -> None:
    seen: list[tuple[str, int, int]] = []
    bench = Workbench((), DataFolder(Path("nowhere")), Cache(None), lambda *told: seen.append(told))
    bench.in_batches("stage", {}, list("abcde"), 2, lambda batch: batch)
    assert seen == [("stage", 0, 5), ("stage", 2, 5), ("stage", 4, 5), ("stage", 5, 5)]


def test_data_sets_are_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    rows = [{"text": "a"}, {"text": "b"}]
    (tmp_path / "set/part.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (tmp_path / "set/plain.txt.gz").write_bytes(gzip.compress(b"one\ntwo"))
    data = DataFolder(tmp_path)
    assert data.rows("set/part") == rows
    assert data.text("set/plain") == "one\ntwo"
    assert data.has("set/part")
    assert not data.has("set/absent")
    with pytest.raises(UnknownNameError, match="did you mean set/part"):
        data.rows("set/prt")
    with pytest.raises(InputError, match="FACTORLM_DATA"):
        DataFolder(tmp_path / "absent").rows("set/part")
    (tmp_path / "set/broken.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="get the data set again"):
        data.text("set/broken")


def test_fingerprints_see_order_and_borders() -> None:
    assert len({fingerprint(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], [])}) == 5


class Inner(Config):
    depth: int = 2
    names: tuple[str, ...] = ("a",)


class Outer(Config):
    inner: Inner = Inner()
    share: float = 0.5
    word: str = "x"


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["inner.depth=3"], Outer(inner=Inner(depth=3))),
        (["inner.names=['b','c']", "share=0.25"], Outer(inner=Inner(names=("b", "c")), share=0.25)),
        (["word=plain text"], Outer(word="plain text")),
        (["word='quoted'"], Outer(word="quoted")),
        ([], Outer()),
    ],
)
def test_assignments(assignments: list[str], expected: Outer) -> None:
    assert changed(Outer(), None, assignments) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.dept=3", "did you mean depth"),
        ("inner.depth=3.7", "integer"),
        ("inner.depth='3'", "integer"),
        ("share", "path.to.key=value"),
        ("=3", "path.to.key=value"),
    ],
)
def test_bad_assignments(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(Outer(), None, [assignment])


def test_recipes_come_before_assignments(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("share = 0.1\n[inner]\ndepth = 5\n")
    found: Any = changed(Outer(), recipe, ["inner.depth=6"])
    assert found == Outer(inner=Inner(depth=6), share=0.1)
    recipe.write_text("share = [")
    with pytest.raises(InputError, match="recipe in TOML"):
        changed(Outer(), recipe)
    with pytest.raises(InputError, match="No such file"):
        changed(Outer(), tmp_path / "absent.toml")
