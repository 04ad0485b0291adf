"""The ∞-gram language model against its formula, on a corpus small enough to look through."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from factorlm.algebra import Backoff, Interpolation, laws, log_normalize
from factorlm.errors import InputError
from factorlm.memory import InfiniGram, MemoryDraft
from factorlm.memory.engine import Engine
from factorlm.memory.gates import ConstantGate, LogisticGate, TableGate
from factorlm.models.table import random_table
from factorlm.text import letters

from .conftest import laid_out

Make = Callable[..., Engine]
VOCABULARY = letters("abc")
END = VOCABULARY.end_ids[0]
IN_FLOAT32 = 1e-6  # answers are logarithms of counts in float32


@pytest.fixture
def memory(make_engine: Make, shards: list[list[list[int]]]) -> InfiniGram:
    return InfiniGram("small", None, 1.0, make_engine(shards, VOCABULARY.size), VOCABULARY, ())


def by_hand(shards: list[list[list[int]]], context: list[int], *, ends: bool) -> list[float]:
    """What follows the longest suffix that is followed by anything, looked at place by place."""
    texts = [[*laid_out(documents), 255] for documents in shards]  # what ends a shard ends a document
    for length in range(len(context), -1, -1):
        suffix = context[len(context) - length :]
        counts = [0] * VOCABULARY.size
        for text in texts:
            for n in range(len(text) - length):
                after = text[n + length]
                if text[n : n + length] == suffix and n + length < len(text) - (length == 0):
                    if after != 255:
                        counts[after] += 1
                    elif ends:
                        counts[END] += 1
        if sum(counts):
            return [count / sum(counts) for count in counts]
    raise AssertionError


@pytest.mark.parametrize("ends", [True, False])
def test_it_is_what_followed_the_longest_suffix(make_engine: Make, shards: list[list[list[int]]], ends: bool) -> None:
    memory = InfiniGram("small", None, 1.0, make_engine(shards, VOCABULARY.size), VOCABULARY, (), ends)
    seen = set()
    for context in ([*c] for n in range(1, 6) for c in itertools.product(range(3), repeat=n)):
        prob = memory.start(torch.tensor([context])).log_weight_BV[0].exp()
        want = torch.tensor(by_hand(shards, context, ends=ends))
        torch.testing.assert_close(prob, want, atol=1e-6, rtol=1e-6)
        seen.add(int((want > 0).sum()))
    assert {1, 2, 3} <= seen


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(
    "gate", [None, ConstantGate(weight=0.4), TableGate(edges=((2.0,), (1.0,), (0.5,)), cells=(0.1, 0.2) * 4)]
)
def test_it_obeys_the_laws(
    make_engine: Make, shards: list[list[list[int]]], ends: bool, gate: ConstantGate | TableGate | None
) -> None:
    memory = InfiniGram("small", gate, 1.0, make_engine(shards, VOCABULARY.size), VOCABULARY, (), ends)
    for texts in ([[0, 1], [1, 0], [2, 2]], [[0, 1, 1, 1], [1, 0, 2, 2], [2, 2, 2, 2]]):
        prefixes = [[1], [0, 1], [2, 0, 0]]
        laws.check(memory, prefixes, texts, is_normalized=gate is None, tolerance=IN_FLOAT32)
        base = random_table("abc", 8, torch.Generator().manual_seed(0))
        laws.check(Backoff((memory, base)), prefixes, texts, is_normalized=True, tolerance=IN_FLOAT32)


def test_a_text_begins_as_documents_do_and_ends_where_they_end(make_engine: Make) -> None:
    engine = make_engine([[[0, 1], [0, 1], [2, 1, 1]], [[0, 0]]], VOCABULARY.size)
    memory = InfiniGram("small", None, 1.0, engine, VOCABULARY, (END,))
    prob = memory.start(torch.tensor([[END]])).log_weight_BV[0].exp()
    torch.testing.assert_close(prob, torch.tensor([0.75, 0.0, 0.25, 0.0]))
    prob = memory.start(torch.tensor([[END, 0, 1]])).log_weight_BV[0].exp()
    torch.testing.assert_close(prob, torch.tensor([0.0, 0.0, 0.0, 1.0]))
    prob = memory.start(torch.tensor([[END, 0]])).log_weight_BV[0].exp()
    torch.testing.assert_close(prob, torch.tensor([1 / 3, 2 / 3, 0.0, 0.0]))


def test_weights_depend_on_what_is_known_and_are_capped(memory: InfiniGram) -> None:
    base = random_table("abc", 8, torch.Generator().manual_seed(0))
    prefix_BT = torch.tensor([[-1, 0], [2, 2]])
    answer = memory.look(memory.start(prefix_BT).memory)
    gate = LogisticGate(bias=-1.0, slopes=(0.5, 0.1, 1.0))
    weight_B = torch.sigmoid(-1 + answer.feature_BF @ torch.tensor([0.5, 0.1, 1.0])) * gate.most
    said_BV = memory.gated(gate).start(prefix_BT).log_weight_BV
    torch.testing.assert_close(said_BV.logsumexp(-1).exp(), weight_B)
    torch.testing.assert_close(
        memory.gated(gate, 0.2).start(prefix_BT).log_weight_BV.logsumexp(-1).exp(), torch.full((2,), 0.2)
    )
    constant = Backoff((memory.gated(ConstantGate(weight=0.25)), base))
    plain = Interpolation((memory, base), (0.25, 0.75))
    torch.testing.assert_close(constant.start(prefix_BT).log_weight_BV, plain.start(prefix_BT).log_weight_BV.double())
    nothing = Backoff((memory.gated(ConstantGate(weight=0.0)), base))
    assert torch.equal(nothing.start(prefix_BT).log_weight_BV, log_normalize(base.start(prefix_BT).log_weight_BV))
    with pytest.raises(InputError, match="from 0 to 1"):
        memory.gated(None, 1.5)


def test_recollections_name_suffix_count_and_source(memory: InfiniGram, shards: list[list[list[int]]]) -> None:
    found = memory.recollect([0, 1], [1, 2, END])
    documents = [document for shard in shards for document in shard]
    prefix = [0, 1]
    for recollection, token in zip(found, [1, 2, END], strict=True):
        want = by_hand(shards, prefix, ends=True)
        assert recollection.prob == pytest.approx(want[token], abs=1e-6)
        length = int(recollection.features["suffix length"])
        assert recollection.weight == 1
        for source in recollection.sources:
            assert list(source.match) == prefix[len(prefix) - length :]
            inside = [*source.before, *source.match, *source.after]
            document = documents[source.document]
            assert any(document[n : n + len(inside)] == inside for n in range(len(document)))
            assert source.path == "made/up.txt"
            if recollection.prob and token != END:
                assert source.after[0] == token
        prefix.append(token)
    assert any(recollection.sources for recollection in found)


def test_drafts_say_what_followed_most(make_engine: Make) -> None:
    engine = make_engine([[[0, 1, 2, 2, 0], [1, 0, 1, 2, 1]]], VOCABULARY.size)
    memory = InfiniGram("small", ConstantGate(weight=0.0), 1.0, engine, VOCABULARY, ())
    assert MemoryDraft(memory, num_tokens=4, share=0.9).guess([2, 1, 0, 1]) == [2, 1, END]
    assert MemoryDraft(memory, num_tokens=2, share=0.9).guess([2, 1, 0, 1]) == [2, 1]
    assert MemoryDraft(memory, least=4, share=0.9).guess([2, 1, 0, 1]) == []
    assert MemoryDraft(memory, least=1, share=0.9).guess([2, 0, 1]) == [2]  # then one of two
    assert MemoryDraft(memory, least=1).guess([]) == []
    with pytest.raises(InputError, match="at least 1"):
        MemoryDraft(memory, num_tokens=0)


def test_scores_are_those_of_the_formula(memory: InfiniGram, shards: list[list[list[int]]]) -> None:
    text = [0, 1, 2, 0]
    got = memory.score(torch.tensor([[1]]), torch.tensor([text]))[0]
    want = [by_hand(shards, [1, *text[:n]], ends=True)[token] for n, token in enumerate(text)]
    assert got.exp().tolist() == pytest.approx(want, abs=1e-6)
    assert math.isfinite(float(got[0]))
