"""Counts against counting, on shards of a tiny vocabulary; and the public engine on the same files."""

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factorlm.memory.attribution import longest_matches, stretches
from factorlm.memory.engine import Engine, Queries

from .conftest import laid_out

Make = Callable[..., Engine]
TOKENS = (0, 1, 2)


def counted(texts: list[list[int]], query: tuple[int, ...]) -> int:
    """How often a query stands in some texts, looked at place by place."""
    if not query:
        return sum(map(len, texts))
    return sum(tuple(text[n : n + len(query)]) == query for text in texts for n in range(len(text)))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_counts_are_those_of_looking(make_engine: Make, shards: list[list[list[int]]], width: int) -> None:
    engine = make_engine(shards, 3, width)
    texts = [laid_out(documents, width) for documents in shards]
    queries = [q for n in range(5) for q in itertools.product((*TOKENS, engine.separator), repeat=n)]
    want = [counted(texts, query) for query in queries]
    assert [engine.count(query) for query in queries] == want
    assert engine.count_many(Queries.of(queries)).tolist() == want
    assert engine.num_documents == sum(map(len, shards))


def test_the_longest_suffix_is_the_longest(make_engine: Make, shards: list[list[list[int]]]) -> None:
    engine, texts = make_engine(shards, 3), [laid_out(documents) for documents in shards]
    contexts = [c for n in range(7) for c in itertools.product(TOKENS, repeat=n)][::7]
    found = engine.longest_many(Queries.of(contexts))
    for context, length, count in zip(contexts, found.length_B.tolist(), found.count_B.tolist(), strict=True):
        want = max(n for n in range(len(context) + 1) if counted(texts, context[len(context) - n :]))
        suffix = context[len(context) - want :]
        assert (length, count) == (want, counted(texts, suffix))
        for token in (*TOKENS, engine.separator):
            assert engine.longest_ratio(context, token) == (length, (count, counted(texts, (*suffix, token))))
        after = engine.longest_following(context)[1]
        have = dict(zip(after.tokens.tolist(), after.counts.tolist(), strict=True))
        ends = sum(tuple(text[len(text) - len(suffix) :]) == suffix for text in texts) if suffix else 0
        want_after = {t: counted(texts, (*suffix, t)) for t in (*TOKENS, engine.separator)}
        want_after[engine.separator] += ends  # a document that is the last of its shard ends, too
        assert have == {t: n for t, n in want_after.items() if n}


def test_places_are_where_the_tokens_stand(make_engine: Make, shards: list[list[list[int]]]) -> None:
    engine = make_engine(shards, 3)
    documents = [document for shard in shards for document in shard]
    for query in ((0, 1), (2, 2), (1, 0, 2)):
        found = engine.occurrences(query, most=1000, around=2)
        assert len(found) == engine.count(query) > 0
        assert Counter(o.document for o in found) == {
            n: k for n, d in enumerate(documents) if (k := counted([d], query))
        }
        for place in found:
            document = documents[place.document]
            assert tuple(document[place.place : place.place + len(query)]) == query
            assert place.token_ids[place.first : place.first + len(query)] == query
            assert place.token_ids == tuple(document[max(0, place.place - 2) : place.place + len(query) + 2])
        assert engine.documents_with(query) == sorted({o.document for o in found})
        assert len(engine.occurrences(query, most=2)) == min(2, engine.count(query))


def test_stretches_are_maximal_and_cover_what_is_there(make_engine: Make) -> None:
    engine = make_engine([[[0, 1, 2, 3, 4, 5, 6]], [[9, 8, 7, 6, 5]]], 10)
    text = [0, 1, 2, 3, 9, 8, 7, 7, 4, 5, 6]
    assert longest_matches(engine, text) == [1, 2, 3, 4, 1, 2, 3, 1, 1, 2, 3]
    found = stretches(engine, text, at_least=3)
    assert [(s.first, s.length, s.count) for s in found] == [(0, 4, 1), (4, 3, 1), (8, 3, 1)]
    assert stretches(engine, text, at_least=4)[0].surprise == pytest.approx(-sum(np.log([1 / 14] * 4)))
    assert len(stretches(engine, text, at_least=3, most=1)) == 1
    assert stretches(engine, [], at_least=1) == []


@pytest.fixture
def make_public(make_engine: Make, tmp_path: Path) -> Callable[[int], tuple[Engine, Any]]:
    """An index of ours in so many shards, and the public engine on the same files."""
    if sys.platform != "linux":
        pytest.skip("the public engine is looked at on Linux")
    from infini_gram.engine import InfiniGramEngine

    rng = np.random.default_rng(3)
    prob = 1 / np.arange(1, 301)
    documents = [rng.choice(300, int(rng.integers(1, 60)), p=prob / prob.sum()).tolist() for _ in range(900)]

    def make(num_shards: int) -> tuple[Engine, Any]:
        # What a shard ends with stands nowhere else: there, its tables of next tokens go wrong.
        ours = make_engine([[*documents[k::num_shards], [300 + k]] for k in range(num_shards)], 304, 2)
        return ours, InfiniGramEngine(index_dir=str(tmp_path), eos_token_id=303, vocab_size=304, token_dtype="u16")

    return make


def queries(engine: Engine, number: int) -> Iterator[list[int]]:
    """Runs of tokens of the corpus, some of them with one token changed."""
    rng = np.random.default_rng(4)
    texts = [shard.text_N.astype(int).tolist() for shard in engine.shards]
    while number:
        text = texts[int(rng.integers(len(texts)))]
        place, length = int(rng.integers(len(text) - 8)), int(rng.integers(1, 8))
        query = text[place : place + length]
        if rng.random() < 0.3:
            query[int(rng.integers(length))] = int(rng.integers(300))
        if engine.separator not in query:
            number -= 1
            yield query


@pytest.mark.parametrize(
    ("num_shards", "number"), [(1, 1_000), (2, 300), pytest.param(1, 10_000, marks=pytest.mark.long)]
)
def test_the_public_engine_reads_our_files_and_counts_the_same(
    make_public: Callable[[int], tuple[Engine, Any]], num_shards: int, number: int
) -> None:
    ours, theirs = make_public(num_shards)
    for query in queries(ours, number):
        *context, token = query
        assert theirs.count(input_ids=query)["count"] == ours.count(query)
        found = theirs.infgram_prob(prompt_ids=context, cont_id=token)
        suffix, ratio = ours.longest_ratio(context, token)
        assert (found["suffix_len"], found["prompt_cnt"], found["cont_cnt"]) == (suffix, *ratio)
        assert theirs.count(input_ids=context)["count"] == ours.count(context)


def test_the_public_engine_gives_the_same_tables_of_next_tokens(
    make_public: Callable[[int], tuple[Engine, Any]],
) -> None:
    ours, theirs = make_public(2)
    compared = 0
    for query in queries(ours, 300):
        for answer, after in (
            (theirs.ntd(prompt_ids=query), ours.following(query)),
            (theirs.infgram_ntd(prompt_ids=query), ours.longest_following(query)[1]),
        ):
            if answer["approx"]:  # it takes samples of frequent contexts
                continue
            compared += 1
            have = {int(t): r["cont_cnt"] for t, r in answer["result_by_token_id"].items()}
            want = Counter(dict(zip(after.tokens.tolist(), after.counts.tolist(), strict=True)))
            want[303] += want.pop(ours.separator, 0)  # theirs calls the end of a document its end token
            assert have == {t: n for t, n in want.items() if n}
    assert compared > 500
