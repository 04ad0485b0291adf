"""Indexes on disk: built, broken off, changed, broken, and adopted."""

import json
import os
import random
from pathlib import Path

import pytest

from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.memory import building, changing, infini
from factorlm.memory.building import BuildSettings, build
from factorlm.memory.card import CARD, ModelMark
from factorlm.memory.corpus import CorpusSettings
from factorlm.memory.infini import InfiniIndex, adopt, open_index, verify

MARK = ModelMark(name="letters", vocabulary="v")
LINES = BuildSettings(corpus=CorpusSettings(documents="lines"))
SIZE = 128


def encode(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text.rstrip("\n")] for text in texts]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = random.Random(0)
    lines = ["".join(rng.choice("abc ") for _ in range(rng.randint(1, 30))) + "." for _ in range(300)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


def made(corpus: Path, target: Path, settings: BuildSettings = LINES, **more: object) -> InfiniIndex:
    build([corpus], target, encode, MARK, SIZE, settings, **more)  # type: ignore[arg-type]
    return open_index(target)


def content(index: InfiniIndex) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in index.path.iterdir() if p.name != CARD}


def answers(index: InfiniIndex) -> list[int]:
    rng = random.Random(1)
    queries = [encode(["".join(rng.choice("abc .") for _ in range(rng.randint(1, 5)))])[0] for _ in range(200)]
    return [index.engine.count(query) for query in queries]


def test_an_index_says_what_it_was_made_of(corpus: Path, tmp_path: Path) -> None:
    index = made(corpus, tmp_path / "idx", licence="CC0")
    texts = corpus.read_text().split("\n")
    card = index.card
    assert (card.num_documents, card.num_tokens, card.width) == (300, sum(map(len, texts)), 1)
    assert (card.licence, card.sources[0].path, card.model) == ("CC0", str(corpus), MARK)
    assert bytes(index.engine.document(17)[0].tolist()).decode() == texts[17]
    assert index.engine.document(299)[1] == {"path": str(corpus), "linenum": 299}
    assert answers(index)[:50] == [
        sum(t.startswith(q, n) for t in texts for n in range(len(t))) for q in queries_as_text()[:50]
    ]
    assert verify(index.path) == []
    with pytest.raises(InputError, match="there is something"):
        made(corpus, tmp_path / "idx")


def queries_as_text() -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choice("abc .") for _ in range(rng.randint(1, 5))) for _ in range(200)]


def test_shards_and_pieces_change_no_answer(corpus: Path, tmp_path: Path) -> None:
    whole = made(corpus, tmp_path / "whole")
    sharded = made(corpus, tmp_path / "sharded", LINES.model_copy(update={"shard_tokens": 1000}))
    assert len(sharded.card.shards) > 3
    assert answers(sharded) == answers(whole)
    changing.merge([tmp_path / "sharded"], tmp_path / "merged", LINES)
    assert content(open_index(tmp_path / "merged")) == content(whole)
    assert [sharded.engine.document(n)[1] for n in (0, 150, 299)] == [
        whole.engine.document(n)[1] for n in (0, 150, 299)
    ]


@pytest.mark.parametrize("broken_at", ["reading", "sorting suffixes", "checksums"])
def test_a_build_that_was_broken_off_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: str
) -> None:
    monkeypatch.setattr(building, "BATCH_CHARACTERS", 500)
    monkeypatch.setattr(building, "SAVED_EVERY", 0.0)
    settings = LINES.model_copy(update={"shard_tokens": 1500})
    want = content(made(corpus, tmp_path / "want", settings))
    num_told = 0

    def stop(stage: str, done: int, total: int) -> None:
        nonlocal num_told
        num_told += stage == broken_at
        if num_told > 3:
            raise KeyboardInterrupt

    num_encoded = 0

    def counting(texts: list[str]) -> list[list[int]]:
        nonlocal num_encoded
        num_encoded += len(texts)
        return encode(texts)

    def again() -> None:
        build([corpus], tmp_path / "idx", counting, MARK, SIZE, settings, report=stop)

    if broken_at == "checksums":  # in the very last step

        def no_marks(path: Path) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(building, "write_memory", lambda *_, **__: no_marks(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        again()
    assert not (tmp_path / "idx").exists()
    monkeypatch.undo()
    num_told, before = -1_000_000, num_encoded
    again()
    assert num_encoded - before < 300 if broken_at == "reading" else num_encoded == before
    assert content(open_index(tmp_path / "idx")) == want
    assert not list(tmp_path.glob(".*"))


def test_other_settings_begin_anew(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made(corpus, tmp_path / "idx")
    monkeypatch.undo()
    whole = LINES.model_copy(update={"corpus": CorpusSettings(documents="whole")})
    assert made(corpus, tmp_path / "idx", whole).card.num_documents == 1


def test_what_is_appended_counts_and_what_is_removed_does_not(corpus: Path, tmp_path: Path) -> None:
    texts = corpus.read_text().split("\n")
    (tmp_path / "first.txt").write_text("\n".join(texts[:200]))
    (tmp_path / "rest.txt").write_text("\n".join(texts[200:]))
    whole = made(corpus, tmp_path / "whole")
    index = made(tmp_path / "first.txt", tmp_path / "idx")
    old = open_index(tmp_path / "idx")
    before = answers(old)
    changing.append(tmp_path / "idx", [tmp_path / "rest.txt"], encode, LINES)
    assert answers(open_index(tmp_path / "idx")) == answers(whole)
    assert answers(old) == before  # who reads goes on reading what was there
    assert open_index(tmp_path / "idx").card.num_documents == 300
    assert verify(tmp_path / "idx") == []
    changing.remove(tmp_path / "idx", range(200), LINES)  # a whole shard
    changing.remove(tmp_path / "idx", [0, 99, 50], LINES)
    left = open_index(tmp_path / "idx")
    rest = made(tmp_path / "rest.txt", tmp_path / "rest")
    changing.remove(tmp_path / "rest", [50, 0, 99], LINES)
    assert answers(left) == answers(open_index(tmp_path / "rest")) != answers(rest)
    assert (left.card.num_documents, left.card.removed) == (97, 203)
    assert bytes(left.engine.document(0)[0].tolist()).decode() == texts[201]
    assert verify(tmp_path / "idx") == []
    assert changing.remove(tmp_path / "idx", [], LINES) == left.card
    for numbers, message in (([97], "documents 0 to 96"), (range(97), "none would be left")):
        with pytest.raises(InputError, match=message):
            changing.remove(tmp_path / "idx", numbers, LINES)
    assert index.card.num_documents == 200


def test_a_change_that_fails_leaves_the_old_index(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made(corpus, tmp_path / "idx")
    before = content(index)
    monkeypatch.setattr(changing, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for change in (
        lambda: changing.remove(tmp_path / "idx", [3], LINES),
        lambda: changing.merge([tmp_path / "idx"], tmp_path / "idx", LINES, replace=True),
    ):
        with pytest.raises(KeyboardInterrupt):
            change()
        assert content(open_index(tmp_path / "idx")) == before
        assert verify(tmp_path / "idx") == []
        assert not list(tmp_path.glob(".*"))


def test_other_tokens_are_not_merged(corpus: Path, tmp_path: Path) -> None:
    made(corpus, tmp_path / "one")
    build([corpus], tmp_path / "two", encode, MARK.model_copy(update={"vocabulary": "w"}), SIZE, LINES)
    with pytest.raises(IncompatibleError, match="build them with one model"):
        changing.merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both", LINES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenized.0", "sha256"),
        ("table.0", "out of order|sha256"),
        ("metadata.0", "sha256"),
        ("offset.0", "do not begin at its separators|sha256"),
    ],
)
def test_verify_finds_a_changed_byte(corpus: Path, tmp_path: Path, name: str, message: str) -> None:
    index = made(corpus, tmp_path / "idx")
    raw = bytearray((index.path / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (index.path / name).write_bytes(raw)
    found = verify(index.path)
    assert found
    assert any(name in sentence for sentence in found)
    if name == "table.0":
        assert any("out of order" in sentence for sentence in found)
    with (index.path / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match="bytes"):
        open_index(index.path)
    os.unlink(index.path / name)
    with pytest.raises(IntegrityError, match="is missing"):
        open_index(index.path)


def test_files_that_do_not_belong_are_named(corpus: Path, tmp_path: Path) -> None:
    index = made(corpus, tmp_path / "idx")
    (index.path / "more").write_text("x")
    assert verify(index.path) == [f"{index.path / 'more'} does not belong there: {CARD} does not name it"]
    (index.path / CARD).write_text("{")
    with pytest.raises(IntegrityError, match=r"index\.json"):
        open_index(index.path)
    with pytest.raises(InputError, match="index build makes one"):
        open_index(tmp_path)


def test_a_public_index_is_adopted_if_it_is_one(corpus: Path, tmp_path: Path) -> None:
    index = made(corpus, tmp_path / "idx")
    want = answers(index)
    card = json.loads((index.path / CARD).read_text())
    os.unlink(index.path / CARD)
    for name in ("metadata.0", "metaoff.0"):  # the public indexer writes them only when asked
        os.unlink(index.path / name)
    adopted = adopt(index.path, MARK, SIZE)
    assert (adopted.num_documents, adopted.num_tokens) == (card["num_documents"], card["num_tokens"])
    assert answers(open_index(index.path)) == want
    assert open_index(index.path).engine.document(3)[1] == {}
    with pytest.raises(InputError, match="nothing to adopt"):
        adopt(index.path, MARK, SIZE)
    os.unlink(index.path / CARD)
    with pytest.raises(IntegrityError, match=r"there are only 50.*cannot be adopted"):
        adopt(index.path, MARK, 50)
    with pytest.raises(IntegrityError, match=r"holds no tokens of 2 bytes|does not begin with a separator of 2 bytes"):
        adopt(index.path, MARK, SIZE, width=2)
    with pytest.raises(InputError, match="name an infini-gram index"):
        adopt(tmp_path, MARK, SIZE)


def test_a_corpus_without_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    with pytest.raises(InputError, match=r"at least one document.*objects without a text in 'text', left out: 2"):
        made(tmp_path / "bad.jsonl", tmp_path / "idx")
    assert not list(tmp_path.glob("*idx*"))
    assert infini.CHECKED > 0
