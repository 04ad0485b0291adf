"""factorlm index: built from texts, asked, changed, verified; and memories in generate and score."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import objects

Run = Callable[..., Any]


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the good dog is in the bag\nthe bad cat is in the good bag\n")
    (tmp_path / "b.jsonl").write_text('{"text": "a good day"}\nbroken\n{"text": "a good dog is good"}\n')
    (tmp_path / "held.txt").write_text("the good cat is in the bag\nthe bad dog is in the good bag\n" * 8)
    return tmp_path


@pytest.fixture
def idx(run: Run, texts: Path, tiny_folder: Path) -> Path:
    ran = run(
        "index", "build", "infini", "a.txt", "b.jsonl", "--out", "idx", "--documents", "lines", "--licence", "CC0",
        "--model", str(tiny_folder),
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert "4 documents" in ran.out
    assert "lines that are not JSON, left out: 1" in ran.err
    return texts / "idx"


def test_an_index_is_asked(run: Run, idx: Path, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    [found] = objects(run("index", "query", "idx", "good bag", "--json", *model).out)
    assert (found["count"], found["as_is"]) == (1, 1 if found["behind_space"] is None else 0)
    [found] = objects(run("index", "query", "idx", "the good", "--next", "--json", *model).out)
    assert found["count_context"] == 1
    assert [(n["token"], n["count"]) for n in found["next"]] == [(" ", 1)]
    [found] = objects(run("index", "query", "idx", "zzz the good", "--next", "--json", *model).out)
    assert 0 < found["suffix_length"] < 9
    [found] = objects(run("index", "query", "idx", "a good", "--prob", "--json", *model).out)
    assert (found["count_context"], found["count"], found["prob"]) == (4, 2, 0.5)
    [found] = objects(run("index", "query", "idx", "in the bag", "--find", "--json", *model).out)
    [place] = found["places"]
    assert (place["line"], place["match"].strip(), place["before"].rstrip()[-2:]) == (1, "in the bag", "is")
    assert place["source"].endswith("a.txt")
    [found] = objects(run("index", "query", "idx", "a good cat is in the bag", "--attribute", "--json", *model).out)
    assert found["share"] > 0.5
    assert any("is in the" in part["text"] for part in found["stretches"])
    for way in ("--count", "--prob", "--next", "--find", "--attribute"):
        ran = run("index", "query", "idx", "in the bag", way, *model)
        assert ran.status == 0, ran.err
        assert ran.out.strip()
    [card] = objects(run("index", "show", "idx", "--json").out)
    assert (card["kind"], card["num_documents"], card["licence"]) == ("infini", 4, "CC0")
    assert "infini" in run("index", "show", "idx").out


def test_an_index_is_changed_and_verified(run: Run, idx: Path, texts: Path) -> None:
    (texts / "c.txt").write_text("the dog is good\n")
    assert "5 documents" in run("index", "append", "idx", "c.txt").out
    assert "2 of 5 documents would go" in run("index", "remove", "idx", "--source", "b.jsonl", "--dry-run").out
    assert "1 of 5 documents are gone" in run("index", "remove", "idx", "--containing", "bad cat").out
    assert "nothing was changed" in run("index", "remove", "idx", "--containing", "zzz").out
    assert "4 documents" in run("index", "merge", "idx", "--out", "one").out
    assert "one is whole" in run("index", "verify", "one").out
    raw = bytearray((texts / "one/table.0").read_bytes())
    raw[3] ^= 1
    (texts / "one/table.0").write_bytes(raw)
    ran = run("index", "verify", "one")
    assert ran.status == 2
    assert "table.0" in ran.err


def test_memories_write_and_score(run: Run, idx: Path, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    ran = run("index", "weigh", "idx", "--held-out", "held.txt", "--num-tokens", "300", "--kind", "two", *model)
    assert ran.status == 0, ran.err
    assert "nats a token" in ran.out
    assert run("index", "weigh", "idx", "--held-out", "held.txt", "--name", "x", *model).status == 0
    assert "weights x" in run("index", "show", "idx").out
    alone, mixed = (
        sum(found["log_prob"] for found in objects(run("score", "held.txt", "--json", *model, *more).out))
        for more in ((), ("--memory", "idx"))
    )
    assert mixed > alone + 10
    words = ("generate", "the good dog", "--max-tokens", "6", *model)
    [found] = objects(run(*words, "--memory", "idx=0.5", "--explain", "--json").out)
    assert [set(r) >= {"token", "weight", "suffix_length", "sources"} for r in found["recalled"]["idx"]] == [
        True
    ] * len(found["token_ids"])
    shown = run(*words, "--memory", "idx@x", "--explain").out
    assert "a.txt:1" in shown
    assert "where that is from" in " ".join(shown.split())
    plain = objects(run(*words, "--json").out)
    assert objects(run(*words, "--json", "--memory", "idx", "--memory-mode", "draft").out) == plain
    assert "guesses right" in run(*words, "--memory", "idx", "--memory-mode", "draft").err
    [found] = objects(run(*words, "--json", "--memory", "idx^-1", "--memory-mode", "multiply").out)
    assert found["factors"]["idx"]["exponent"] == -1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("index", "build", "infinite", "a.txt", "--out", "x"), "no kind of memory named 'infinite'"),
        (("index", "build", "infini", "none.txt", "--out", "x"), "no file or folder none.txt"),
        (("index", "build", "infini", "a.txt"), "give --out FOLDER"),
        (("index", "build", "infini", "a.txt", "--out", "idx"), "there is something at idx"),
        (("index", "build", "infini", "a.txt", "--out", "x", "--documents", "rows"), "no kind of documents"),
        (("index", "build", "infini", "a.txt", "--out", "x", "--set", "shard=1"), "no setting named 'shard'"),
        (("index", "build", "mlp", "a.txt", "b.jsonl", "--out", "x"), "one knn memory, got 2 places"),
        (("index", "query", "idx", "x", "--next", "--find"), "one of --count, --prob"),
        (("index", "query", "idx", ""), "at least one character"),
        (("index", "query", "none", "x"), "index build makes one"),
        (("index", "remove", "idx"), "--document, --containing or --source"),
        (("index", "remove", "idx", "--document", "9"), "documents 0 to 3, got 9"),
        (("index", "weigh", "idx", "--held-out", "a.txt", "--kind", "three"), "no kind of weights named 'three'"),
        (("index", "adopt", "idx"), "nothing to adopt"),
        (("generate", "the", "--memory", "idx=2"), "a weight from 0 to 1"),
        (("generate", "the", "--memory", "idx^2"), "--memory-mode multiply"),
        (("generate", "the", "--memory", "idx", "--memory-mode", "mix"), "no way of using a memory named 'mix'"),
        (("generate", "the", "--memory", "idx=0.5", "--memory-mode", "draft"), "has no number"),
        (("generate", "the", "--memory", "none"), "index build makes one"),
        (("score", "a.txt", "--memory", "idx", "--memory-mode", "draft"), "changes no score"),
    ],
)
def test_bad_input_ends_in_one_line(
    run: Run, idx: Path, tiny_folder: Path, words: tuple[str, ...], message: str
) -> None:
    more = () if words[:2] in (("index", "remove"), ("index", "verify")) else ("--model", str(tiny_folder))
    ran = run(*words, *more)
    assert ran.status == 2, ran.out
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert not (idx.parent / "x").exists()


def test_settings_are_shown(run: Run, texts: Path) -> None:
    for kind in ("infini", "knn", "mlp", "passages"):
        assert json.loads(run("index", "build", kind, "a.txt", "--print-settings").out)


def test_passages_and_neighbours_are_asked_and_read(run: Run, texts: Path, tiny_folder: Path) -> None:
    model = ("--model", str(tiny_folder))
    lines = ("--documents", "lines")
    assert run("index", "build", "passages", "a.txt", "b.jsonl", "--out", "ps", *lines, *model).status == 0
    [found] = objects(run("index", "query", "ps", "bad cat?", "--json", *model).out)
    assert found["near"][0]["text"].startswith("the bad cat")
    assert "a.txt:2" in run("index", "query", "ps", "cat", *model).out
    ran = run("generate", "the bad cat", "--memory", "ps=1.5", "--max-tokens", "4", "--json", *model)
    assert ran.status == 0, ran.err
    assert objects(ran.out)[0]["factors"]["ps"]["exponent"] == 1.5
    assert "read: a.txt:2" in ran.err
    assert "generate reads them" in run("score", "a.txt", "--memory", "ps", *model).err
    assert run("index", "build", "knn", "a.txt", "--out", "kn", "--set", "window=64", *lines, *model).status == 0
    [found] = objects(run("index", "query", "kn", "the good", "--json", *model).out)
    assert found["near"][0]["source"].endswith("a.txt")
    assert run("index", "query", "kn", "the good", *model).out.strip()
    assert run("index", "weigh", "kn", "--held-out", "held.txt", *model).status == 0
    ran = run("generate", "the good", "--memory", "kn", "--max-tokens", "4", "--explain", *model)
    assert ran.status == 0, ran.err
    assert "a.txt" in ran.out
    assert "two weights are for" in run("index", "weigh", "kn", "--held-out", "held.txt", "--kind", "two", *model).err
    for name in ("kn", "ps"):
        assert run("index", "remove", name, "--document", "0").status == 0
        assert f"{name} is whole" in run("index", "verify", name).out
