import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from factorlm.algebra import Backoff, laws, log_normalize, pad_left, pad_right
from factorlm.errors import IncompatibleError, InputError, IntegrityError, UnknownNameError
from factorlm.memory import neighbour_building
from factorlm.memory.corpus import Document, Troubles
from factorlm.memory.datastore import DOCUMENTS, KEYS, OWNERS, REMOVED, VALUES, Datastore, Looking, NeighbourSettings
from factorlm.memory.datastore_keys import KeyMap
from factorlm.memory.gates import ConstantGate
from factorlm.memory.neighbour_building import append_neighbours, build_neighbours, remove_neighbours
from factorlm.memory.neighbour_index import CellIndex, ExactIndex, Found, nearest, without_own
from factorlm.memory.neighbour_states import windows
from factorlm.memory.neighbours import NeighbourMemory, gathered, open_neighbours
from factorlm.models import CausalLM

WORDS = ["the good ", "the bad ", "in the bag ", "a good dog ", "an old cat, ", "no end. ", "who did it? "]
SMALL = NeighbourSettings(window=12, context=3, pilot=200, batch_tokens=64)
# Hidden states of one text read in other batches differ by float32 rounding, 1e-6 of a spread; divided by a temperature
# of 0.05 that moves a log probability by less than this.
ROUNDING = 1e-3


def texts(num: int, seed: int = 0) -> list[str]:
    """Texts of three to nine of a few pieces, so that what follows a piece is learned from other texts."""
    chance = random.Random(seed)
    return ["".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(num)]


def documents(some: list[str]) -> list[Document]:
    return [Document(text, f"file{n % 3}.txt", n + 1) for n, text in enumerate(some)]


def build(
    lm: CausalLM, some: list[str], target: Path, settings: NeighbourSettings = SMALL, *, replace: bool = False
) -> Datastore:
    build_neighbours(lm, documents(some), target, settings, troubles=Troubles(), replace=replace)
    return Datastore.open(target)


@pytest.fixture(scope="module")
def folder(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("neighbours") / "store"
    build(tiny_lm, texts(40), target)
    return target


@pytest.fixture
def memory(tiny_lm: CausalLM, folder: Path) -> NeighbourMemory:
    return open_neighbours(folder, tiny_lm, looking=Looking(k=8, temperature=0.05))


def queries(lm: CausalLM, num: int = 20) -> Tensor:
    """States of texts that are not stored."""
    return torch.stack([lm.encode(torch.tensor([row])).hidden_BD[0] for row in rows_of(lm, texts(num, seed=9))])


def rows_of(lm: CausalLM, some: list[str]) -> list[list[int]]:
    return [[*lm.start_ids, *lm.encode_text(text)] for text in some]


def held_out(lm: CausalLM, num: int = 20) -> tuple[Tensor, Tensor]:
    rows = [lm.encode_text(text) for text in texts(num, seed=5)]
    return torch.tensor([list(lm.start_ids)] * num), pad_right(rows)


def brute_force(store: Datastore, query_D: Tensor, k: int, living: set[int]) -> list[tuple[float, int]]:
    """Distances to every entry, one by one, in float64."""
    key_W = store.key_map(query_D[None])[0].double()
    found = [(float((store.key_NW[n].double() - key_W).square().sum()), n) for n in living]
    return sorted(found)[:k]


# What is stored


@pytest.mark.parametrize(
    ("num", "window", "context"), [(1, 4, 0), (5, 4, 0), (6, 4, 0), (23, 4, 0), (23, 4, 3), (9, 8, 2)]
)
def test_windows_store_each_token_once_and_overlap_as_told(num: int, window: int, context: int) -> None:
    found = list(windows(num, window, context))
    assert [t for _, start, end in found for t in range(start, end)] == list(range(num))
    for first, start, end in found:
        assert end - first <= window + 1  # the last one is not read
        assert start == 0 or start - 1 - first == context


def test_entries_are_the_states_before_each_token(tiny_lm: CausalLM, folder: Path) -> None:
    store = Datastore.open(folder)
    for document in (0, 7, 39):
        tokens = tiny_lm.encode_text(texts(40)[document])
        first = store.first_entry(document)
        want = [*tokens, tiny_lm.vocabulary.end_ids[0]]
        assert store.value_N[first : first + len(want)].tolist() == want
        assert store.owner_N[first : first + len(want)].tolist() == [document] * len(want)
        # In the first window a state has read all there is, and behind it what the window holds.
        for place, begin in [(0, 0), (5, 0), (12, 0), (13, 9), (min(21, len(tokens)), 9)]:
            read = [*tiny_lm.start_ids, *tokens[begin:place]]
            state_D = tiny_lm.encode(torch.tensor([read])).hidden_BD
            key_W = store.key_map(state_D)[0]
            torch.testing.assert_close(store.key_NW[first + place].float(), key_W, rtol=2**-7, atol=1e-5)  # bfloat16


def test_keys_have_one_scale(tiny_lm: CausalLM, folder: Path) -> None:
    key_NW = Datastore.open(folder).key_NW.float()
    assert float(torch.cdist(key_NW, key_NW).square().mean()) == pytest.approx(2, rel=0.1)  # learned from the first 200


def test_without_ends_none_is_stored(tiny_lm: CausalLM, tmp_path: Path) -> None:
    store = build(tiny_lm, texts(5), tmp_path / "s", SMALL.model_copy(update={"ends": False}))
    assert store.card.num_entries == sum(len(tiny_lm.encode_text(text)) for text in texts(5))


def test_memory_of_reading_holds_no_texts_and_troubles_are_counted(tiny_lm: CausalLM, tmp_path: Path) -> None:
    troubles = Troubles()
    some = [Document("", "a", 1), *documents(texts(3))]
    card = build_neighbours(tiny_lm, iter(some), tmp_path / "s", SMALL, troubles=troubles)
    assert card.troubles == {"documents without tokens, left out": 1}
    assert card.num_documents == 3
    with pytest.raises(InputError, match="at least one document"):
        build_neighbours(tiny_lm, [], tmp_path / "t", SMALL, troubles=Troubles())
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


# Search


@pytest.mark.parametrize("k", [1, 7, 10_000])
def test_exact_search_equals_brute_force(tiny_lm: CausalLM, folder: Path, k: int) -> None:
    store = Datastore.open(folder)
    gone = {3, 17, 30}
    living_N = store.without(gone)
    living = set(np.flatnonzero(living_N).tolist())
    assert living == {n for n in range(store.card.num_entries) if int(store.owner_N[n]) not in gone}
    query_ND = queries(tiny_lm, 6)
    found = store.search(store.key_map(query_ND), k, living_N)
    assert found.entry_BK.shape == (6, min(k, len(living)))
    for query_D, distance_K, entry_K in zip(query_ND, found.distance_BK, found.entry_BK, strict=True):
        want = brute_force(store, query_D, k, living)
        got = distance_K.tolist()
        assert got == pytest.approx([distance for distance, _ in want], abs=1e-5)
        by_entry = {entry: distance for distance, entry in brute_force(store, query_D, len(living), living)}
        assert [by_entry[entry] for entry in entry_K.tolist()] == pytest.approx(got, abs=1e-5)
        assert len(set(entry_K.tolist())) == len(entry_K)


def test_search_in_blocks_equals_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    key_NW = torch.randn(500, 6, generator=generator).bfloat16()
    query_BW = torch.randn(9, 6, generator=generator)
    living_N = np.arange(500) % 3 > 0
    want = nearest(key_NW, ExactIndex(key_NW), query_BW, 12, living_N)
    monkeypatch.setattr("factorlm.memory.neighbour_index.BLOCK_NUMBERS", 7 * 6)
    monkeypatch.setattr("factorlm.memory.neighbour_index.KEPT_NUMBERS", 0)
    got = nearest(key_NW, ExactIndex(key_NW), query_BW, 12, living_N)
    assert torch.equal(got.entry_BK, want.entry_BK)
    assert torch.equal(got.distance_BK, want.distance_BK)


def test_of_entries_at_one_distance_the_first_are_taken() -> None:
    key_NW = torch.cat([torch.ones(6, 4), torch.zeros(5, 4)]).bfloat16()
    found = nearest(key_NW, ExactIndex(key_NW), torch.zeros(1, 4), 7, np.ones(11, bool))
    assert found.entry_BK.tolist() == [[6, 7, 8, 9, 10, 0, 1]]


def test_an_entry_is_dropped_by_its_number_not_by_its_distance() -> None:
    found = Found(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0]]), torch.tensor([[4, 2, 9], [1, 3, 5]]))
    rest = without_own(found, torch.tensor([2, 8]))
    assert rest.entry_BK.tolist() == [[4, 9], [1, 3]]
    assert rest.distance_BK.tolist() == [[0, 1], [0, 1]]


def test_cells_find_most_and_say_how_much(tiny_lm: CausalLM, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"search": "cells", "cells": 16, "probes": 4})
    some = texts(90)
    cells = build(tiny_lm, some, tmp_path / "cells", settings)
    exact = build(tiny_lm, some, tmp_path / "exact")
    assert isinstance(cells.index, CellIndex)
    assert list(cells.card.recall) == ["1", "8", "64"]
    assert 0.5 < cells.card.recall["8"] <= 1
    query_NW = exact.key_map(queries(tiny_lm))
    want, got = exact.search(query_NW, 8), cells.search(query_NW, 8)
    is_found_BK = (want.entry_BK[:, :, None] == got.entry_BK[:, None]).any(2)
    assert abs(float(is_found_BK.float().mean()) - cells.card.recall["8"]) < 0.25  # of 20 queries, loosely
    both_BKK = want.entry_BK[:, :, None] == got.entry_BK[:, None]
    distance_BKK = want.distance_BK[:, :, None] - got.distance_BK[:, None]
    assert torch.equal(distance_BKK[both_BKK], torch.zeros(int(both_BKK.sum())))  # what both find is equally far
    every = replace(cells, index=CellIndex(cells.index.cells, 16))
    assert torch.equal(every.search(query_NW, 8).distance_BK, want.distance_BK)  # all cells: nothing is missed
    living_N = cells.without({0, 1, 2})
    left = every.search(query_NW, 8, living_N)
    assert torch.equal(left.entry_BK, exact.search(query_NW, 8, living_N).entry_BK)
    assert not np.isin(cells.owner_N[left.entry_BK.numpy()], [0, 1, 2]).any()
    (tmp_path / "cells" / "cells.faiss").write_bytes(b"x" * (tmp_path / "cells" / "cells.faiss").stat().st_size)
    with pytest.raises(IntegrityError, match=r"cells\.faiss cannot be read"):
        Datastore.open(tmp_path / "cells")


def test_a_projection_keeps_the_directions_of_most_variance(tiny_lm: CausalLM, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state_ND = torch.randn(300, 5, generator=generator) @ torch.diag(torch.tensor([5.0, 3, 0.01, 0.01, 0.01])) + 7
    key_map = KeyMap.learned(state_ND, 2)
    distance_NN = torch.cdist(state_ND, state_ND).square() / key_map.spread**2
    torch.testing.assert_close(
        torch.cdist(key_map(state_ND), key_map(state_ND)).square(), distance_NN, rtol=0, atol=1e-3
    )
    with pytest.raises(InputError, match="at most 5 numbers"):
        KeyMap.learned(state_ND, 6)
    store = build(tiny_lm, texts(30), tmp_path / "s", SMALL.model_copy(update={"width": 8}))
    assert store.key_NW.shape == (store.card.num_entries, 8)
    query_D = queries(tiny_lm, 1)[0]
    found = store.search(store.key_map(query_D[None]), 5)
    want = brute_force(store, query_D, 5, set(range(store.card.num_entries)))
    assert found.entry_BK[0].tolist() == [entry for _, entry in want]


# The memory


def naive_log_prob(memory: NeighbourMemory, hidden_D: Tensor) -> Tensor:
    """p_kNN by counting."""
    living = set(np.flatnonzero(memory.living_N).tolist())
    weight_V = torch.zeros(memory.vocabulary.size, dtype=torch.float64)
    for distance, entry in brute_force(memory.store, hidden_D, memory.k, living):
        weight_V[int(memory.store.value_N[entry])] += np.exp(-distance / memory.temperature)
    return (weight_V / weight_V.sum()).log()


def test_answers_are_the_shares_of_neighbours(memory: NeighbourMemory, tiny_lm: CausalLM) -> None:
    query_ND = queries(tiny_lm)
    answer = memory.answers(query_ND)
    torch.testing.assert_close(answer.log_prob_BV.logsumexp(1), torch.zeros(len(query_ND)), rtol=0, atol=1e-5)
    for query_D, log_prob_V, feature_F in zip(query_ND, answer.log_prob_BV, answer.feature_BF, strict=True):
        want_V = naive_log_prob(memory, query_D)
        torch.testing.assert_close(log_prob_V.double(), want_V, rtol=0, atol=ROUNDING)
        assert torch.equal(log_prob_V > -torch.inf, want_V > -torch.inf)
        prob_V = want_V.exp()
        distance = memory.nearest(query_D)[0].distance
        want_F = [
            float(-torch.xlogy(prob_V, prob_V).sum()), float(np.log(distance + 1e-6)), float(prob_V.max()),
            float(np.log(int((prob_V > 0).sum()))),
        ]  # fmt: skip
        torch.testing.assert_close(feature_F.double(), torch.tensor(want_F).double(), rtol=0, atol=ROUNDING)


def test_tiny_shares_are_not_lost() -> None:
    log_prob_1V = gathered(torch.tensor([[0.0, -300.0, -300.0, -torch.inf]]), torch.tensor([[1, 0, 0, 3]]), 4)
    assert log_prob_1V.tolist() == [[pytest.approx(-300 + np.log(2), abs=1e-4), 0.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("weight", [None, 0.4])
def test_laws(memory: NeighbourMemory, tiny_lm: CausalLM, weight: float | None) -> None:
    factor = memory if weight is None else memory.gated(ConstantGate(weight=weight))
    prefixes = [[0, 30, 31], [0, 45], [0, 22, 8, 9]]
    rows = [[44, 2, 15], [3, 3, 20], [44, 46, 2]]
    laws.check(factor, prefixes, rows, is_normalized=weight is None, tolerance=ROUNDING)
    if weight is not None:  # one that says everything leaves the model what rounding left: 0 or 1e-7
        laws.check(Backoff((factor, tiny_lm)), prefixes, rows, is_normalized=True, tolerance=ROUNDING)


def test_a_row_of_a_batch_equals_the_row_alone(memory: NeighbourMemory, tiny_lm: CausalLM) -> None:
    rows = rows_of(tiny_lm, texts(5, seed=3))
    together = memory.start(pad_left(rows)).log_weight_BV
    for row, log_weight_V in zip(rows, together, strict=True):
        alone_V = memory.start(torch.tensor([row])).log_weight_BV[0]
        torch.testing.assert_close(log_weight_V, alone_V, rtol=0, atol=ROUNDING)


def test_a_memory_without_weight_leaves_the_model_bit_for_bit(memory: NeighbourMemory, tiny_lm: CausalLM) -> None:
    mixed = Backoff((memory.gated(ConstantGate(weight=0.0)), tiny_lm))
    prefix_BT = pad_left(rows_of(tiny_lm, texts(3, seed=4)))
    state, base = mixed.start(prefix_BT), tiny_lm.start(prefix_BT)
    for _ in range(3):
        assert torch.equal(state.log_weight_BV, log_normalize(base.log_weight_BV))
        token_B = base.log_weight_BV.argmax(-1)
        state, base = mixed.extend(state, token_B), tiny_lm.extend(base, token_B)


def test_states_are_read_once_for_model_and_memory(fresh_lm: CausalLM, folder: Path) -> None:
    memory = open_neighbours(folder, fresh_lm)
    mixed = Backoff((memory.gated(ConstantGate(weight=0.5)), fresh_lm))
    state = mixed.start(torch.tensor([[0, 30, 31, 32]]))
    state = mixed.extend(state, torch.tensor([5]))
    assert state.log_weight_BV.isfinite().any()
    assert fresh_lm.num_tokens_read == 5


def test_where_nothing_lives_nothing_is_said(memory: NeighbourMemory, tiny_lm: CausalLM) -> None:
    nobody = memory.without(range(40))
    answer = nobody.answers(queries(tiny_lm, 2))
    assert bool((answer.log_prob_BV == -torch.inf).all())
    assert bool(answer.feature_BF.isfinite().all())
    mixed = Backoff((nobody.gated(ConstantGate(weight=0.9)), tiny_lm))
    state = mixed.start(torch.tensor([[0, 30]]))
    assert torch.equal(state.log_weight_BV, log_normalize(tiny_lm.start(torch.tensor([[0, 30]])).log_weight_BV))
    assert nobody.nearest("the good") == []


def test_excluded_documents_are_not_found(memory: NeighbourMemory, tiny_lm: CausalLM) -> None:
    """A stored text finds itself, unless it is excluded."""
    text = texts(40)[11][:9]  # of the first window, whose states have read as much
    assert memory.nearest(text)[0].distance < 1e-3
    assert 11 in {neighbour.document for neighbour in memory.nearest(text)}
    assert all(neighbour.document != 11 for neighbour in memory.without([11]).nearest(text))
    with pytest.raises(InputError, match="from 0 to 39, got 40"):
        assert memory.without([40]).living_N.any()


def test_neighbours_tell_where_they_stand(memory: NeighbourMemory, tiny_lm: CausalLM) -> None:
    text = texts(40)[11]
    tokens = tiny_lm.encode_text(text)
    found = replace(memory, k=30).nearest([*tiny_lm.start_ids, *tokens[:10]])
    own = next(n for n in found if n.document == 11 and n.position == 10)
    assert own.distance < 1e-3
    assert (own.source, own.line) == ("file2.txt", 12)
    assert (own.token, own.context) == (tokens[10], tuple(tokens[:10]))
    assert sum(n.prob for n in found) == pytest.approx(1, abs=1e-5)
    assert [n.distance for n in found] == sorted(n.distance for n in found)
    state_D = tiny_lm.encode(torch.tensor([[*tiny_lm.start_ids, *tokens[:10]]])).hidden_BD[0]
    assert [n.entry for n in memory.nearest(state_D)] == [n.entry for n in found[:8]]


# Changing a datastore


def same_answers(first: NeighbourMemory, second: NeighbourMemory, query_ND: Tensor) -> None:
    """A key may be rounded to another bfloat16 when its state was read in another batch: 2**-8 of a number."""
    got, want = first.answers(query_ND), second.answers(query_ND)
    assert torch.equal(got.log_prob_BV > -torch.inf, want.log_prob_BV > -torch.inf)
    torch.testing.assert_close(got.log_prob_BV, want.log_prob_BV, rtol=0, atol=2e-2)


def test_appended_equals_built_at_once(tiny_lm: CausalLM, tmp_path: Path) -> None:
    some = documents(texts(30))
    build_neighbours(tiny_lm, some, tmp_path / "once", SMALL, troubles=Troubles())
    build_neighbours(tiny_lm, some[:18], tmp_path / "parts", SMALL, troubles=Troubles())
    before = (tmp_path / "parts" / KEYS).read_bytes()
    card = append_neighbours(tiny_lm, tmp_path / "parts", iter(some[18:25]), troubles=Troubles())
    assert card.num_documents == 25
    append_neighbours(tiny_lm, tmp_path / "parts", some[25:], troubles=Troubles())
    once, parts = (Datastore.open(tmp_path / name) for name in ("once", "parts"))
    assert once.documents == parts.documents
    assert np.array_equal(once.value_N, parts.value_N)
    assert np.array_equal(once.owner_N, parts.owner_N)
    assert torch.equal(once.key_map.mean_D, parts.key_map.mean_D)
    assert (tmp_path / "parts" / KEYS).read_bytes().startswith(before)
    torch.testing.assert_close(once.key_NW.float(), parts.key_NW.float(), rtol=2**-7, atol=1e-6)
    looking = Looking(k=8, temperature=0.3)
    opened = [open_neighbours(tmp_path / name, tiny_lm, looking=looking) for name in ("once", "parts")]
    same_answers(*opened, queries(tiny_lm))
    with pytest.raises(InputError, match="no document to append"):
        append_neighbours(tiny_lm, tmp_path / "parts", [], troubles=Troubles())


def test_removed_equals_never_there(tiny_lm: CausalLM, tmp_path: Path) -> None:
    some = documents(texts(30))
    gone = {20, 21, 29}  # behind the pilot, so that the key map is learned from the same states
    build_neighbours(tiny_lm, some, tmp_path / "all", SMALL, troubles=Troubles())
    remove_neighbours(tmp_path / "all", {20})
    inode = (tmp_path / "all" / KEYS).stat().st_ino
    card = remove_neighbours(tmp_path / "all", gone)
    assert (tmp_path / "all" / KEYS).stat().st_ino == inode  # a link, not a copy
    assert (card.num_documents, card.num_listed) == (27, 30)
    kept = [document for n, document in enumerate(some) if n not in gone]
    never = build_neighbours(tiny_lm, kept, tmp_path / "never", SMALL, troubles=Troubles())
    assert card.num_tokens == never.num_tokens
    for k in (5, 100_000):
        looking = Looking(k=k, temperature=0.3)
        opened = [open_neighbours(tmp_path / name, tiny_lm, looking=looking) for name in ("all", "never")]
        same_answers(*opened, queries(tiny_lm))
    left = open_neighbours(tmp_path / "all", tiny_lm, looking=Looking(k=100_000), exclude=[4])
    assert {n.document for n in left.nearest("the good")} == {*range(30)} - gone - {4}
    after = append_neighbours(tiny_lm, tmp_path / "all", some[20:21], troubles=Troubles())
    assert (after.num_documents, after.num_listed) == (28, 31)
    with pytest.raises(InputError, match="at least one document must stay"):
        remove_neighbours(tmp_path / "all", range(31))
    with pytest.raises(InputError, match="from 0 to 30"):
        remove_neighbours(tmp_path / "all", [31])


def test_a_crash_leaves_what_was_there(tiny_lm: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "s"
    build(tiny_lm, texts(10), target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def broken() -> Iterator[Document]:
        yield from documents(texts(8))
        raise RuntimeError("the power went out")

    def crash(*_: object) -> None:
        raise RuntimeError("the power went out")

    def attempts() -> Iterator[Callable[[], object]]:
        yield lambda: build_neighbours(tiny_lm, broken(), target, SMALL, troubles=Troubles(), replace=True)
        yield lambda: append_neighbours(tiny_lm, target, broken(), troubles=Troubles())
        monkeypatch.setattr(neighbour_building.os, "replace", crash)
        yield lambda: build(tiny_lm, texts(9), target, replace=True)
        yield lambda: append_neighbours(tiny_lm, target, documents(texts(3)), troubles=Troubles())
        monkeypatch.undo()
        monkeypatch.setattr(neighbour_building, "_link", crash)
        yield lambda: remove_neighbours(target, [0])

    for attempt in attempts():
        with pytest.raises(RuntimeError, match="the power went out"):
            attempt()
        assert {path.name: path.read_bytes() for path in target.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["s"]


# What is refused


def test_another_model_is_refused(tiny_lm: CausalLM, folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    from factorlm.models.loading import read_model

    other = read_model(str(tiny_folder), dtype="float32", device="cpu")
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight.mul_(2)
    with pytest.raises(IncompatibleError, match="holds hidden states of"):
        open_neighbours(folder, other)
    with pytest.raises(IncompatibleError, match="holds hidden states of"):
        append_neighbours(other, folder, documents(texts(1)), troubles=Troubles())


def test_bad_places_and_settings_are_refused(tiny_lm: CausalLM, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is something at"):
        build(tiny_lm, texts(3), folder)
    with pytest.raises(InputError, match="windows of at most 255 tokens, got 300"):
        build(tiny_lm, texts(3), tmp_path / "s", NeighbourSettings(window=300))
    with pytest.raises(ValueError, match="longer than the context"):
        NeighbourSettings(window=4, context=4)
    with pytest.raises(UnknownNameError, match="no gate named 'x'"):
        open_neighbours(folder, tiny_lm, gate="x")
    with pytest.raises(InputError, match="a temperature above 0"):
        replace(open_neighbours(folder, tiny_lm), temperature=0.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (KEYS, b"", "keys.u16 has 0 bytes"),
        (OWNERS, None, "out of order"),
        (VALUES, None, "has tokens that"),
        (DOCUMENTS, None, "documents.jsonl cannot be read"),
        ("key_map.safetensors", None, "key_map.safetensors cannot be read"),
    ],
)
def test_damaged_files_are_told(
    tiny_lm: CausalLM, folder: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(b"\x7f" * (copy / name).stat().st_size if content is None else content)
    if name == OWNERS:
        size = (copy / name).stat().st_size // 4
        (copy / name).write_bytes(np.arange(size)[::-1].astype("<i4").tobytes())
    with pytest.raises(IntegrityError, match=message):
        open_neighbours(copy, tiny_lm).nearest("the")


def test_removed_mask_is_what_the_card_counts(folder: Path) -> None:
    store = Datastore.open(folder)
    assert (folder / REMOVED).stat().st_size == store.card.num_entries == store.card.num_tokens
