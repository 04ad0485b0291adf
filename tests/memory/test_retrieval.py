"""Passages, BM25, vectors, fusion and measures, against slow twins written out here; encoders are hashes of words."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

from factorlm.errors import IncompatibleError, InputError, IntegrityError, UnknownNameError
from factorlm.memory import bm25, dense, passages
from factorlm.memory.bm25 import Bm25Settings
from factorlm.memory.card import MemoryCard, ModelMark, changed_files, write_memory
from factorlm.memory.corpus import Document
from factorlm.memory.dense import DenseSettings, TextEncoder
from factorlm.memory.fusion import Fusion, min_max_fusion, reciprocal_rank_fusion
from factorlm.memory.passages import PassageSettings, PassageStore, cut, token_ends, word_ends
from factorlm.memory.ranking import Ranking, highest, ndcg_at, recall_at, reciprocal_rank
from factorlm.memory.retrievers import RETRIEVERS, append_documents, build_passages, open_retriever, remove_documents
from factorlm.models import CausalLM

MARK = ModelMark(name="tiny", vocabulary="0")
FLOAT32 = 1e-5  # sums of up to some ten float32 weights
FLOAT16 = 2e-3  # cosine of vectors whose numbers were rounded to 11 bits
WORDS = PassageSettings(unit="words", size=8, retrievers=("bm25", "dense"), bm25=Bm25Settings(stop_words="none"))
TEXTS = [
    "the river otter sleeps by the bank",
    "a bank lends money to people",
    "straße café naïve Ελλάδα 東京 прив́ет",
    "otters otters otters and a river",
    "money money money",
    "the river otter sleeps by the bank",  # the first one again
]
ODD = [
    "one two  three\nfour five six seven",
    "  x ",
    "",
    " \n ",
    "東京" * 200,
    "é" * 70 + " ü",
    "a" * 64 + " b",
    "a\u3000b",
]


def words_to_vectors(texts: list[str], synonyms: dict[str, str] | None = None, width: int = 64) -> Tensor:
    """The sum of a random direction for each word, which its hash chooses."""
    vector_BD = torch.zeros(len(texts), width)
    for vector_D, text in zip(vector_BD, texts, strict=True):
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.sha256((synonyms or {}).get(word, word).encode()).digest()[:7], "big")
            vector_D += torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector_BD


ENCODER = TextEncoder("hash", "hash-1", words_to_vectors)


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, f"{n}.txt", 10 * n + 1) for n, text in enumerate(texts)]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., PassageStore]:
    def make(texts: list[str] = TEXTS, settings: PassageSettings = WORDS, name: str = "store", **more: object):  # noqa: ANN202
        return build_passages(documents(texts), tmp_path / name, settings, mark=MARK, encoder=ENCODER, **more)

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (2, 1), (3, 0), (5, 2), (40, 20), (1000, 0)])
@pytest.mark.parametrize("text", ODD)
def test_passages_hold_all_and_no_more(text: str, size: int, overlap: int) -> None:
    pieces = cut(text, word_ends(text), size, overlap)
    covered = np.zeros(len(text), int)
    for start, end, num_words in pieces:
        assert text[start:end] == text[start:end].strip() != ""
        assert num_words <= size
        covered[start:end] += 1
    assert all(count or letter.isspace() for count, letter in zip(covered, text, strict=True))
    if not overlap:
        assert covered.max(initial=0) <= 1
    assert [p.start for p in pieces] == sorted({p.start for p in pieces})


def test_words_are_counted_and_overlap() -> None:
    text = "a b c d e f g"
    assert [text[s:e] for s, e, _ in cut(text, word_ends(text), 4, 2)] == ["a b c d", "c d e f", "e f g"]
    assert word_ends("x" * 130 + " y") == [64, 128, 130, 132]


def test_tokens_are_counted_as_the_model_does(tiny_lm: CausalLM) -> None:
    text = "the good house in the bad, bad inn. " * 7 + "é€ <s> good"
    for start, end, num_tokens in cut(text, token_ends(tiny_lm)(text), 10):
        assert len(tiny_lm.encode_text(text[start:end])) <= 11  # without its blank a word may be cut otherwise
        assert num_tokens <= 10
        assert end == len(text) or text[end].isspace(), "a word was cut though there is white space"
    # A sign of three tokens is not split, whatever the size.
    assert "".join("€€€"[s:e] for s, e, _ in cut("€€€", token_ends(tiny_lm)("€€€"), 2)) == "€€€"
    # What has no token is kept.
    assert [(s, e) for s, e, _ in cut("ЖЖЖ", token_ends(tiny_lm)("ЖЖЖ"), 4)] == [(0, 3)]


def test_passages_come_back(build: Callable[..., PassageStore]) -> None:
    store = build(["one two three four five six seven eight nine ten", "   ", "zwölf  \u2028 dreizehn"])
    found = [store.passage(n) for n in range(len(store))]
    assert [p.text for p in found] == ["one two three four five six seven eight", "nine ten", "zwölf  \u2028 dreizehn"]
    places = [(p.document, p.source, p.line, p.start) for p in found]  # a document without words has no number
    assert places == [(0, "0.txt", 1, 0), (0, "0.txt", 1, 40), (1, "2.txt", 21, 0)]
    assert (store.card.num_documents, store.card.num_passages, store.card.num_tokens) == (2, 3, 12)
    assert store.sources == ("0.txt", "2.txt")
    assert store.documents_of("2.txt") == store.documents_of(["2.txt", "nowhere"]) == {1}
    with pytest.raises(InputError, match="a passage from 0 to 2"):
        store.passage(3)


def test_one_passage_is_read_without_the_rest(build: Callable[..., PassageStore]) -> None:
    path = build().path
    lines = bytearray((path / passages.LINES).read_bytes())
    end = lines.index(b"\n")
    lines[:end] = b"?" * end
    (path / passages.LINES).write_bytes(bytes(lines))
    store = PassageStore.open(path)
    assert store.passage(1).text == TEXTS[1]
    with pytest.raises(IntegrityError, match=r"passage 0 of .* is damaged"):
        store.passage(0)


def test_nothing_is_a_pickle(build: Callable[..., PassageStore]) -> None:
    store = build()
    for name in store.card.files:
        raw = (store.path / name).read_bytes()
        if name.endswith(".npy"):
            np.load(store.path / name, allow_pickle=False)
        elif name.endswith(".json"):
            json.loads(raw)
        elif name.endswith(".jsonl"):
            assert len([json.loads(line) for line in raw.splitlines()]) == len(store)
        else:
            assert name in {passages.OFFSETS, passages.DOCUMENTS, dense.VECTORS}
    assert changed_files(store.path, store.card, lambda *_: None) == []


@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_append_and_remove_equal_building_at_once(
    tmp_path: Path, build: Callable[..., PassageStore], kind: str
) -> None:
    whole = build(TEXTS, name="whole")
    parts = build(TEXTS[:3], name="parts")
    append_documents(parts.path, documents(TEXTS)[3:], encoder=ENCODER)
    assert content(parts.path) == content(whole.path)
    longer = build([*TEXTS, "something else"], name="longer")
    assert content(remove_documents(longer.path, [6]).path) == content(whole.path)
    first = build(["first of all", *TEXTS[1:]], name="first")
    left = remove_documents(first.path, [0])
    assert [left.passage(n).text for n in range(len(left))] == TEXTS[1:]
    hits = open_retriever(left, kind, encoder=ENCODER).search(["money money"], 1)
    assert left.passage(hits[0][0].passage).text == "money money money"
    assert parts.passage(0).text == TEXTS[0], "a reader was disturbed"


def test_append_keeps_vectors_and_refuses_another_encoder(build: Callable[..., PassageStore]) -> None:
    store, asked = build(), []

    def counting(texts: list[str]) -> Tensor:
        asked.extend(texts)
        return words_to_vectors(texts)

    append_documents(store.path, documents(["new words"]), encoder=TextEncoder("hash", "hash-1", counting))
    assert asked == ["new words"]
    before = content(store.path)
    with pytest.raises(IncompatibleError, match="vectors by hash"):
        append_documents(store.path, documents(["x"]), encoder=TextEncoder("other", "hash-2", words_to_vectors))
    with pytest.raises(IncompatibleError, match="vectors by hash"):
        open_retriever(store.path, "dense", encoder=TextEncoder("other", "hash-2", words_to_vectors))
    with pytest.raises(InputError, match="documents from 0 to 6"):
        remove_documents(store.path, [7])
    with pytest.raises(InputError, match="a document with text is needed"):
        remove_documents(store.path, range(7))
    assert content(store.path) == before


def test_a_crash_leaves_what_was_there(build: Callable[..., PassageStore], tmp_path: Path) -> None:
    store = build()
    before = content(store.path)

    def failing(texts: list[str]) -> Tensor:
        raise RuntimeError("the encoder fell over")

    def broken() -> object:
        yield Document("one more", "x", 1)
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError):
        append_documents(store.path, documents(["x"]), encoder=TextEncoder("hash", "hash-1", failing))
    with pytest.raises(KeyboardInterrupt):
        append_documents(store.path, broken(), encoder=ENCODER)  # type: ignore[arg-type]
    bad = TextEncoder("hash", "hash-1", lambda texts: torch.full((len(texts), 64), math.nan))
    with pytest.raises(InputError, match="finite numbers"):
        append_documents(store.path, documents(["x"]), encoder=bad)
    assert content(store.path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["store"], "something half-written stays"


def test_building_says_what_it_needs(tmp_path: Path, build: Callable[..., PassageStore]) -> None:
    with pytest.raises(InputError, match="need a tokenizer, got none"):
        build_passages([], tmp_path / "x", PassageSettings(), mark=MARK)
    with pytest.raises(InputError, match="needs an encoder, got none"):
        build_passages([], tmp_path / "x", WORDS, mark=MARK)
    with pytest.raises(InputError, match="a document with text is needed"):
        build([" ", "\n"], name="x")
    with pytest.raises(InputError, match="BM25 needs a passage with a word"):
        build(["...", "!"], name="x")
    build()
    with pytest.raises(InputError, match="there is something at"):
        build()
    build(TEXTS[:1], replace=True)
    with pytest.raises(ValueError, match="overlap by at most half"):
        PassageSettings(size=4, overlap=3)
    with pytest.raises(ValueError, match="at least one of bm25, dense"):
        PassageSettings(retrievers=())
    with pytest.raises(InputError, match="needs PyStemmer"):
        Bm25Settings(stemmer="english").terms()


@pytest.mark.parametrize("name", [passages.LINES, passages.OFFSETS, dense.VECTORS, *bm25.FILES.values()])
def test_missing_and_short_files_are_named(build: Callable[..., PassageStore], name: str) -> None:
    path = build().path
    raw = (path / name).read_bytes()
    (path / name).write_bytes(raw[:-1])
    with pytest.raises(IntegrityError, match=f"{name} has {len(raw) - 1} bytes"):
        PassageStore.open(path)
    (path / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        PassageStore.open(path)


@pytest.mark.parametrize("name", [passages.OFFSETS, *bm25.FILES.values()])
@pytest.mark.parametrize("fill", [b"\xff", b"\0", b"{", b"[1]"])
def test_damaged_files_give_one_line(build: Callable[..., PassageStore], name: str, fill: bytes) -> None:
    path = build().path
    size = (path / name).stat().st_size
    (path / name).write_bytes((fill * size)[:size])
    with pytest.raises(IntegrityError) as caught:
        open_retriever(path, "bm25").search(["otter"], 3)
    assert "\n" not in str(caught.value)


def test_another_memory_is_refused(tmp_path: Path) -> None:
    card = MemoryCard(kind="other", model=MARK, num_documents=0, num_tokens=0)
    write_memory(tmp_path / "other", card, lambda folder: None, replace=False)
    with pytest.raises(IntegrityError, match="kind"):
        PassageStore.open(tmp_path / "other")
    with pytest.raises(InputError, match=r"index\.json is needed"):
        PassageStore.open(tmp_path)


def naive_bm25(query: list[str], rows: list[list[str]], k1: float, b: float) -> list[float]:
    mean, found = sum(map(len, rows)) / len(rows), []
    for row in rows:
        total = 0.0
        for word in query:
            n = sum(word in other for other in rows)
            f = row.count(word)
            idf = math.log(1 + (len(rows) - n + 0.5) / (n + 0.5))
            total += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(row) / mean)) if f else 0.0
        found.append(total)
    return found


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.0), (2.0, 1.0), (0.9, 0.4)])
def test_bm25_equals_its_formula(build: Callable[..., PassageStore], k1: float, b: float) -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{generator.zipf(1.5) % 30}" for _ in range(generator.integers(1, 9))) for _ in range(60)]
    settings = WORDS.model_copy(update={"bm25": Bm25Settings(k1=k1, b=b), "retrievers": ("bm25",)})
    retriever = open_retriever(build(texts, settings), "bm25")
    queries = ["w1 w2 w2 w7", "w3", "w29 unseen w1", " ".join(texts[0:4])]
    for query, hits in zip(queries, retriever.search(queries, 60), strict=True):
        want = naive_bm25(query.split(), [text.split() for text in texts], k1, b)
        assert {hit.passage for hit in hits} == {n for n, score in enumerate(want) if score > 0}
        assert [hit.score for hit in hits] == pytest.approx([want[hit.passage] for hit in hits], rel=FLOAT32)
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.passage))


def test_words_are_taken_from_any_script() -> None:
    terms = Bm25Settings().terms()
    assert terms("The STRASSE, an ice-cream café: don't!") == ["strasse", "ice", "cream", "café", "don", "t"]
    assert terms("cafe\u0301") == terms("CAFÉ") == ["café"]
    assert terms("東京タワー is 333m") == ["東", "京", "タ", "ワ", "ー", "333m"]
    assert Bm25Settings(lowercase=False, stop_words="none").terms()("The The the") == ["The", "The", "the"]
    assert terms("") == terms(" \n...") == []


def test_a_passage_is_found_by_its_words(build: Callable[..., PassageStore]) -> None:
    store = build()
    for name, text in itertools.product(("bm25", "dense", "hybrid"), TEXTS[1:5]):
        [hits] = open_retriever(store, name, encoder=ENCODER).search([text], 2)
        assert store.passage(hits[0].passage).text == text, name
        assert hits[0].source == f"{hits[0].passage}.txt"
    assert [[h.passage for h in hits] for hits in open_retriever(store).search(["zebra", "ΕΛΛΆΔΑ"], 3)] == [[], [2]]


@pytest.mark.parametrize("name", RETRIEVERS)
def test_laws_of_every_retriever(build: Callable[..., PassageStore], name: str) -> None:
    retriever = open_retriever(build(), name, encoder=ENCODER, seed=3)
    queries = ["river otter", "", "money", " \n", "unseen", "river otter"]
    together = retriever.search(queries, 4)
    assert together == [retriever.search([query], 4)[0] for query in queries], "a query depends on its neighbours"
    assert together[1] == together[3] == [], "an empty query found something"
    for query, hits in zip(queries, together, strict=True):
        assert len({hit.passage for hit in hits}) == len(hits) <= 4
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert retriever.search([query], 2)[0] == hits[:2] or name == "random"
        everything = retriever.search([query], 6)[0]
        without = retriever.search([query], 6, exclude_documents=[0, 3])[0]
        assert not {0, 3} & {hit.passage for hit in without}
        if name == "bm25" or name == "dense":
            assert without == [hit for hit in everything if hit.passage not in (0, 3)]
        some = retriever.search([query], 1, exclude_documents=[0])[0]
        assert len(some) == min(1, len([hit for hit in everything if hit.passage != 0])), "a list is shorter for it"
    assert retriever.search([], 3) == []
    assert retriever.search(["river"], 3, exclude_documents=range(6)) == [[]]
    with pytest.raises(InputError, match="a list of queries and k of at least 1"):
        retriever.search("river", 3)
    with pytest.raises(InputError, match="k = 0"):
        retriever.search(["river"], 0)


@pytest.mark.parametrize("name", ["bm25", "dense", "hybrid"])
def test_equal_passages_come_by_number(build: Callable[..., PassageStore], name: str) -> None:
    store = build(["same words here"] * 40 + ["same words here and more"])
    [hits] = open_retriever(store, name, encoder=ENCODER).search(["same words here"], 7)
    assert [hit.passage for hit in hits] == list(range(7))


def test_chance_is_uniform_and_repeatable(build: Callable[..., PassageStore]) -> None:
    store = build()
    queries = [f"q{n}" for n in range(600)]
    found = open_retriever(store, "random", seed=1).search(queries, 1, exclude_documents=[4])
    counts = np.bincount([hits[0].passage for hits in found], minlength=6)
    assert counts[4] == 0
    assert abs(counts[[0, 1, 2, 3, 5]] - 120).max() < 45  # more than four standard deviations: one run in 3000
    assert found == open_retriever(store, "random", seed=1).search(queries, 1, exclude_documents=[4])
    assert found != open_retriever(store, "random", seed=2).search(queries, 1, exclude_documents=[4])


def test_tables_and_stores_say_what_they_have(build: Callable[..., PassageStore]) -> None:
    store = build(settings=WORDS.model_copy(update={"retrievers": ("bm25",)}))
    with pytest.raises(UnknownNameError, match="did you mean bm25"):
        open_retriever(store, "bm52")
    for name in ("dense", "hybrid"):
        with pytest.raises(InputError, match="was built for bm25, not for dense"):
            open_retriever(store, name, encoder=ENCODER)


def random_texts(number: int) -> list[str]:
    generator = np.random.default_rng(1)
    return [" ".join(f"w{w}" for w in generator.integers(0, 300, 6)) for _ in range(number)]


def test_dense_is_the_cosine(build: Callable[..., PassageStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "BLOCK", 16)  # so that blocks meet
    monkeypatch.setattr(dense, "TOGETHER", 7)
    texts = random_texts(60)
    queries = ["w1 w2 w3", texts[17], "nothing alike"]
    retriever = open_retriever(build(texts), "dense", encoder=ENCODER)
    both = (torch.nn.functional.normalize(words_to_vectors(some), dim=-1) for some in (texts, queries))
    vector_ND, query_QD = (vector_BD.double().numpy() for vector_BD in both)
    for query_D, hits in zip(query_QD, retriever.search(queries, 60), strict=True):
        want_N = vector_ND @ query_D
        assert [hit.score for hit in hits] == pytest.approx([want_N[hit.passage] for hit in hits], abs=FLOAT16)
        assert sorted(hit.passage for hit in hits) == list(range(60))


def test_lists_find_what_comparing_all_does(build: Callable[..., PassageStore]) -> None:
    texts = random_texts(400)
    queries = [*texts[:30], *random_texts(450)[400:]]
    exact = open_retriever(build(texts, name="exact"), "dense", encoder=ENCODER)
    near = {}
    for probed in (0.2, 1.0):
        settings = WORDS.model_copy(update={"dense": DenseSettings(exact_up_to=100, probed=probed)})
        near[probed] = open_retriever(build(texts, settings, name=f"near{probed}"), "dense", encoder=ENCODER)
    want = exact.search(queries, 5)
    assert near[1.0].search(queries, 5) == want, "all lists are all passages"
    found = near[0.2].search(queries, 5)
    share = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, want, strict=True)])
    assert 0.4 < share < 1, "a fifth of the space has some of the best, and more than its share"
    assert all(a[0] == b[0] for a, b in zip(found[:30], want[:30], strict=True)), "a passage finds itself"
    # Excluding all but the last documents must still give full lists, from parts of the space far away.
    some = near[0.2].search(queries, 5, exclude_documents=range(390))
    assert [len(hits) for hits in some] == [5] * len(queries)
    assert some == exact.search(queries, 5, exclude_documents=range(390))
    place = near[0.2].store.path / dense.LISTS
    place.write_bytes(b"\0" * place.stat().st_size)
    with pytest.raises(IntegrityError, match="is not an index of faiss"):
        open_retriever(place.parent, "dense", encoder=ENCODER)


def ranking(*pairs: tuple[int, float]) -> Ranking:
    return Ranking(np.array([p for p, _ in pairs], np.int64), np.array([s for _, s in pairs]))


def test_fusion_by_hand() -> None:
    first, second = ranking((7, 9.0), (3, 5.0), (1, 1.0)), ranking((3, 0.9), (5, 0.5), (7, 0.1))
    passage_K, score_K = reciprocal_rank_fusion([first, second], 3)
    assert passage_K.tolist() == [3, 7, 5]
    assert score_K.tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62])
    passage_K, score_K = min_max_fusion([first, second], 9, weights=[0.25, 0.75])
    assert passage_K.tolist() == [3, 5, 7, 1]
    assert score_K.tolist() == pytest.approx([0.25 * 0.5 + 0.75, 0.75 * 0.5, 0.25, 0.0])
    deep = [ranking((1, 3.0), (2, 2.0), (9, 1.0)), ranking((3, 3.0), (4, 2.0), (9, 1.0))]
    ranks = [lambda asked, k, allowed_N, part=part: [Ranking(*(x[:k] for x in part))] for part in deep]
    assert Fusion().ranked(ranks)(["q"], 1, None)[0].passage_K.tolist() == [9], "only the firsts were looked at"
    assert reciprocal_rank_fusion([ranking((2, 1.0), (1, 0.5)), ranking((1, 1.0), (2, 0.5))], 2)[0].tolist() == [1, 2]
    assert reciprocal_rank_fusion([ranking(), ranking()], 3).passage_K.tolist() == []
    assert Fusion(weights=(0.0, 1.0)).fuse([first, second], 9).passage_K.tolist() == [3, 5, 7]
    with pytest.raises(InputError, match="not all zero"):
        Fusion(weights=(0.0, 0.0)).fuse([first, second], 9)


def test_hybrid_is_between_or_above(tmp_path: Path) -> None:
    """Words know names and no synonyms, vectors the reverse; over both kinds of questions, fusion is best."""
    synonyms = {f"synt{n}": f"t{n}" for n in range(20)}

    def blind(texts: list[str]) -> Tensor:
        return words_to_vectors([" ".join(w for w in t.split() if w[0] != "N") for t in texts], synonyms)

    encoder = TextEncoder("blind", "blind", blind)
    texts = [f"Name{n} t{n % 20} filler{n % 3}" for n in range(40)]
    store = build_passages(documents(texts), tmp_path / "store", WORDS, mark=MARK, encoder=encoder)
    named = [(f"Name{n} synt{n % 20}", {n}) for n in range(40)]
    alike = [(f"synt{n % 20}", {m for m in range(40) if m % 20 == n % 20}) for n in range(40)]
    rank: dict[str, list[float]] = {}
    for name in ("bm25", "dense", "hybrid"):
        retriever = open_retriever(store, name, encoder=encoder)
        for asked in (named, alike):
            found = retriever.search([query for query, _ in asked], 10)
            pairs = zip(found, asked, strict=True)
            ranks = [reciprocal_rank([hit.passage for hit in hits], want) for hits, (_, want) in pairs]
            rank.setdefault(name, []).append(float(np.mean(ranks)))
    assert rank["bm25"][0] > rank["dense"][0]
    assert rank["dense"][1] > rank["bm25"][1]
    assert all(h >= min(b, d) for h, b, d in zip(rank["hybrid"], rank["bm25"], rank["dense"], strict=True))
    assert sum(rank["hybrid"]) > max(sum(rank["bm25"]), sum(rank["dense"]))


def test_measures_by_hand() -> None:
    assert (recall_at([4, 2, 9], {2, 9, 5, 6}, 2), recall_at([4, 2, 9], {2, 9, 5, 6}, 10)) == (0.25, 0.5)
    assert (reciprocal_rank([4, 2, 9], {9, 2}), reciprocal_rank([4], {9})) == (0.5, 0.0)
    best = 7 / 1 + 3 / math.log2(3) + 1 / 2
    assert ndcg_at([1, 0, 2], {0: 3, 1: 2, 2: 1}, 3) == pytest.approx((3 + 7 / math.log2(3) + 1 / 2) / best)
    assert ndcg_at([0, 1, 2], {0: 3, 1: 2, 2: 1}, 3) == 1.0
    for measure in (lambda: recall_at([1], [], 1), lambda: ndcg_at([1], {1: 0}, 1), lambda: reciprocal_rank([], [])):
        with pytest.raises(InputError, match="a relevant passage"):
            measure()


def test_ndcg_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for k in (1, 3, 10, 50):
        relevance_N = generator.integers(0, 4, 30)
        relevance_N[0] = 3
        order_N = generator.permutation(30)
        score_N = -np.argsort(order_N)
        want = ndcg_score([2.0**relevance_N - 1], [score_N], k=k)
        assert ndcg_at(order_N.tolist(), dict(enumerate(relevance_N.tolist())), k) == pytest.approx(want)


def test_highest_breaks_ties_by_number_in_any_order() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        passage_N, score_N = generator.permutation(20), generator.integers(0, 4, 20).astype(float)
        want = sorted(zip((-score_N).tolist(), passage_N.tolist(), strict=True))[:6]
        found = highest(passage_N, score_N, 6)
        assert list(zip((-found.score_K).tolist(), found.passage_K.tolist(), strict=True)) == want


@pytest.mark.model
def test_minilm_knows_a_paraphrase_that_words_do_not(tmp_path: Path) -> None:
    texts = [
        "The physician prescribed medicine for the child's fever.",
        "The doctor of philosophy gave a long talk on sick jokes in Greek comedy.",
        "Interest rates rose again last quarter.",
    ]
    settings = PassageSettings(unit="words", retrievers=("bm25", "dense"))
    encoder = dense.sentence_encoder()
    store = build_passages(documents(texts), tmp_path / "store", settings, mark=MARK, encoder=encoder)
    query = ["a doctor gave a sick kid drugs"]
    assert open_retriever(store, "bm25").search(query, 1)[0][0].passage == 1
    assert open_retriever(store, "dense").search(query, 1)[0][0].passage == 0
