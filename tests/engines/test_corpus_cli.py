"""`factorlm corpus score` as a user types it."""

import json
from pathlib import Path

import pytest

from factorlm.cli import corpus as command
from factorlm.engines.corpus import LocalEngine
from factorlm.engines.corpus_ray import RayEngine
from factorlm.errors import InputError, UnknownNameError

from .corpora import found_in, save_lexicon, write_documents


def run(*words: object) -> None:
    command.app(["score", *map(str, words)], standalone_mode=False)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    save_lexicon(tmp_path / "store", 1.5)
    return write_documents(tmp_path / "in", 40)


def test_a_corpus_is_scored_and_filtered(
    corpus: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        corpus,
        out,
        "--model",
        tiny_folder,
        "--factor",
        "kind",
        "--keep",
        "factor:kind > 0.5",
        "--shard-mb",
        0.001,
    ]
    run(*words, "--cores", 1)
    told = capsys.readouterr()
    found = found_in(out)
    assert 0 < len(found) < 41
    assert all(o["factors"]["kind"] > 0.5 for o in found)
    assert f"{len(found)} of 41 documents" in told.out
    assert "scoring (kB)" in told.err
    assert "lines that are not JSON, left out: 1 (first: a.jsonl:4)" in told.err
    run(*words, "--json")  # again: nothing is left to do
    manifest = json.loads(capsys.readouterr().out)
    assert (manifest["num_kept"], manifest["num_documents"]) == (len(found), 41)
    assert manifest["job"]["keep"] == ["factor:kind > 0.5"]
    assert "parts" not in manifest


@pytest.mark.parametrize(
    ("words", "error", "what"),
    [
        (["--engine", "spark"], UnknownNameError, "no engine named 'spark'"),
        (["--format", "csv"], UnknownNameError, "no format named 'csv'"),
        (["--documents", "pages"], UnknownNameError, "no kind of documents"),
        (["--factor", "kind=x"], InputError, "a finite number"),
        (["--keep", "kind > 1"], UnknownNameError, "no quantity named 'kind'"),
        (["--keep", "factor:kind > 1"], UnknownNameError, "add it with --factor"),
        (["--workers", "2"], InputError, "only Ray takes --workers"),
        (["--gpus", "1"], InputError, "only Ray takes --gpus"),
        (["--window", "1000"], InputError, "at most 256 tokens"),
    ],
)
def test_bad_words_end_in_one_line(
    words: list[str], error: type[Exception], what: str, corpus: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=what) as caught:
        run(corpus, tmp_path / "out", "--model", tiny_folder, *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_engines_take_their_options() -> None:
    assert command._engine("local", None, None, 3, 0.0) == LocalEngine(cores=3)
    assert command._engine("ray", "somewhere", 4, None, 0.25) == RayEngine("somewhere", 4, 1, 0.25)
    assert RayEngine(gpus=0.25).device == "cuda"
    assert RayEngine().device == "cpu"
