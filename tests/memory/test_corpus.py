"""Corpora that nobody has checked."""

import gzip
import json
from pathlib import Path

import pytest

from factorlm.errors import InputError
from factorlm.memory.corpus import CorpusSettings, Document, Troubles, corpus_files, read_documents


def read(path: Path, **settings: object) -> tuple[list[Document], Troubles]:
    troubles = Troubles()
    return list(read_documents(corpus_files([path]), CorpusSettings(**settings), troubles)), troubles  # type: ignore[arg-type]


def test_broken_objects_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    deep = b"[" * 100_000 + b"]" * 100_000
    lines = [
        b'{"text": "fine"}',
        b"{not json",
        b'{"other": 1}',
        b'{"text": 5}',
        b"[1, 2]",
        b"",
        b'{"text": "nul\\u0000here"}',
        b'{"text": "half \\ud83d"}',
        b'{"text": "bad \xff byte"}',
        b'{"text": "  "}',
        deep,
        b'{"text": "' + b"x" * 3000 + b'"}',
        b'{"text": "last"}',
    ]
    path.write_bytes(b"\n".join(lines))
    found, troubles = read(path, longest_line=2000)
    assert [d.text for d in found] == ["fine", "nulhere", "half \ufffd", "bad \ufffd byte", "last"]
    assert [d.line for d in found] == [1, 7, 8, 9, 13]
    assert troubles.counts == {
        "lines that are not JSON, left out": 1,
        "objects without a text in 'text', left out": 3,
        "documents with NULs, taken out": 1,
        "documents with halves of characters, mended": 1,
        "lines that are not UTF-8, mended": 1,
        "empty documents, left out": 1,
        "lines longer than 2000 bytes, left out": 2,
    }
    assert troubles.first["lines that are not JSON, left out"] == f"{path}:2"
    assert len(troubles.sentences()) == 7
    found, troubles = read(path)
    assert [d.line for d in found] == [1, 7, 8, 9, 12, 13]


@pytest.mark.parametrize("is_zipped", [False, True])
def test_plain_text_is_parted_as_asked(tmp_path: Path, is_zipped: bool) -> None:
    content = "\ufeff = One = \nfirst line\n\nsecond\x00 part\n = = Two = = \nstill one\n = Three = \nend"
    path = tmp_path / ("text.txt.gz" if is_zipped else "text.txt")
    path.write_bytes(gzip.compress(content.encode()) if is_zipped else content.encode())
    whole, troubles = read(path)
    assert [d.text for d in whole] == [content.replace("\x00", "").removeprefix("\ufeff")]
    assert troubles.counts == {"documents with NULs, taken out": 1}
    assert [d.line for d in read(path, documents="lines")[0]] == [1, 2, 4, 5, 6, 7, 8]
    assert [d.line for d in read(path, documents="paragraphs")[0]] == [1, 4]
    assert [(d.line, d.text.split()[1]) for d in read(path, documents="headings")[0]] == [(1, "One"), (7, "Three")]
    parts, troubles = read(path, longest=20)
    assert "".join(d.text for d in parts) == whole[0].text
    assert max(len(d.text) for d in parts) <= 20
    assert "documents too long, parted" in troubles.counts


def test_a_file_that_ends_too_soon_gives_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    rows = b"".join(json.dumps({"text": f"text {n} {n * 7919 % 1000}"}).encode() + b"\n" for n in range(5000))
    path.write_bytes(gzip.compress(rows)[:-2000])
    found, troubles = read(path)
    assert 0 < len(found) < 5000
    assert found[0].text == "text 0 0"
    assert troubles.counts == {"files that could not be read to their end": 1}
    (tmp_path / "no.txt.gz").write_bytes(b"this is no gzip")
    found, troubles = read(tmp_path / "no.txt.gz")
    assert (found, troubles.counts) == ([], {"files that could not be read to their end": 1})


def test_folders_are_searched_and_bytes_counted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.jsonl", "c.png", "sub/d.txt.gz"):
        content = b'{"text": "one"}\n' if name.endswith(".jsonl") else b"two"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    files = corpus_files([tmp_path])
    assert [f.name for f in files] == ["b.txt", "a.jsonl", "d.txt.gz"]
    at_byte = [0]
    seen = [at_byte[0] for _ in read_documents(files, CorpusSettings(), Troubles(), at_byte)]
    assert seen == sorted(seen)
    assert seen[-1] == sum(f.stat().st_size for f in files)
    with pytest.raises(InputError, match="no file or folder"):
        corpus_files([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no file that ends in"):
        corpus_files([tmp_path / "empty"])
    with pytest.raises(InputError, match="at least one file"):
        corpus_files([])
