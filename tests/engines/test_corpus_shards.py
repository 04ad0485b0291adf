"""How corpora are cut: the same documents as when the files are read whole, in shards that notice a change."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factorlm.engines.corpus_rows import NO_COLUMN
from factorlm.engines.corpus_shards import UNREADABLE, Shard, cut, read_shard, sources_of
from factorlm.errors import InputError
from factorlm.memory.corpus import CorpusSettings, Document, Troubles, corpus_files, read_documents

WORDS = ["the", "good", "bad", "é", "tooth", "€", "= in ="]


def write_corpus(folder: Path, seed: int = 0) -> None:
    """Every kind of file, with what may be wrong in one."""
    draw = random.Random(seed)

    def text(num_words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(num_words))

    folder.mkdir(exist_ok=True)
    rows = [json.dumps({"text": text(draw.randint(1, 40))}) for _ in range(120)]
    rows[7:7] = ["{broken", "", '{"text": 3}', '{"text": " "}', '{"text": "nul\\u0000 and half \\ud83d"}']
    (folder / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")  # without an end of its last line
    (folder / "b").mkdir(exist_ok=True)
    lines = [text(draw.randint(0, 12)) for _ in range(100)]
    lines[::9] = [f" = {text(2)} = " for _ in lines[::9]]
    (folder / "b" / "b.txt").write_bytes(("\n".join(lines)).encode() + b"\n\xff broken \xc3\n")
    with gzip.open(folder / "b" / "c.txt.gz", "wb") as file:
        file.write("\n\n".join(text(9) for _ in range(60)).encode())
    (folder / "empty.txt").write_text("")
    (folder / "ignored.bin").write_text("not a text")


def documents_of(folder: Path, shards: list[Shard], settings: CorpusSettings, troubles: Troubles) -> list[Document]:
    return [document for shard in shards for document in read_shard(folder, shard, settings, troubles)]


@pytest.mark.parametrize("kind", ["whole", "lines", "paragraphs", "headings"])
@pytest.mark.parametrize("shard_bytes", [1, 700, 10**9])
def test_shards_hold_the_documents_of_the_files(kind: str, shard_bytes: int, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    settings = CorpusSettings(documents=kind, longest=200)
    root, sources = sources_of(tmp_path)
    shards = cut(root, sources, settings, shard_bytes, Troubles())
    found_troubles, want_troubles = Troubles(), Troubles()
    found = documents_of(root, shards, settings, found_troubles)
    files = corpus_files([tmp_path])
    want = [
        Document(d.text, Path(d.source).relative_to(tmp_path).as_posix(), d.line)
        for d in read_documents(files, settings, want_troubles)
    ]
    assert found == want
    assert found_troubles.counts == want_troubles.counts
    assert len(want) > 20
    if shard_bytes == 10**9:
        assert len(shards) == 1
    if shard_bytes == 700 and kind != "whole":
        assert len(shards) > 10
        assert max(shard.num_bytes for shard in shards) < 700 + 2500
    assert [shard.index for shard in shards] == list(range(len(shards)))


def test_cutting_is_the_same_every_time(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a")
    write_corpus(tmp_path / "b")
    settings = CorpusSettings(documents="lines")
    first, second = (cut(*sources_of(tmp_path / name), settings, 500, Troubles()) for name in "ab")
    assert first == second


@pytest.mark.parametrize("group_rows", [1, 7, 1000])
def test_parquet_is_cut_by_rows(group_rows: int, tmp_path: Path) -> None:
    texts = [None if n % 5 == 0 else f"text {n} " * (n % 13) for n in range(300)]
    pq.write_table(pa.table({"body": texts, "n": list(range(300))}), tmp_path / "x.parquet", row_group_size=group_rows)
    settings = CorpusSettings(field="body")
    root, sources = sources_of(tmp_path)
    shards = cut(root, sources, settings, 400, Troubles())
    assert len(shards) > 10
    troubles = Troubles()
    found = [(d.text, d.line) for d in documents_of(root, shards, settings, troubles)]
    assert found == [(text, n) for n, text in enumerate(texts, 1) if text and text.strip()]
    assert troubles.counts["rows without a text in 'body', left out"] == 60


def test_a_parquet_file_without_the_column_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "d.txt").write_text("something")
    troubles = Troubles()
    root, sources = sources_of(tmp_path)
    shards = cut(root, sources, CorpusSettings(), 10, troubles)
    assert troubles.counts == {NO_COLUMN: 2, UNREADABLE: 1}
    assert [d.text for d in documents_of(root, shards, CorpusSettings(), troubles)] == ["something"]


@pytest.mark.parametrize("broken", ["cut", "flipped"])
def test_what_can_be_read_of_a_broken_file_is_read(broken: str, tmp_path: Path) -> None:
    draw = random.Random(1)
    lines = ["".join(draw.choice("abcdefgh ") for _ in range(60)) for _ in range(3000)]
    packed = bytearray(gzip.compress("\n".join(lines).encode()))
    if broken == "cut":
        packed = packed[: len(packed) // 2]
    else:
        packed[len(packed) // 2 :] = bytes(255 - b for b in packed[len(packed) // 2 :])
    (tmp_path / "a.txt.gz").write_bytes(packed)
    (tmp_path / "b.txt").write_text("after it")
    settings, troubles = CorpusSettings(documents="lines"), Troubles()
    root, sources = sources_of(tmp_path)
    shards = cut(root, sources, settings, 5000, troubles)
    assert troubles.counts == {UNREADABLE: 1}
    found = [d.text for d in documents_of(root, shards, settings, troubles)]
    assert found[-1] == "after it"
    assert len(found) > 500
    assert [text.strip() for text in found[:500]] == [line.strip() for line in lines[:500]]


def test_a_text_that_changes_is_noticed(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    root, sources = sources_of(tmp_path)
    settings = CorpusSettings(documents="lines")
    shards = cut(root, sources, settings, 500, Troubles())
    path = tmp_path / "a.jsonl"
    content = bytearray(path.read_bytes())
    content[-20] = ord("x")
    path.write_bytes(content)
    with pytest.raises(InputError, match="has changed"):
        documents_of(root, shards, settings, Troubles())
    path.unlink()
    with pytest.raises(InputError, match="not now"):
        documents_of(root, shards, settings, Troubles())
