"""The parts of the vLLM engine that need no vLLM: rows, orders, stores, versions."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factorlm.engines.vllm.batch import RESIDENT, Batch, Cursor, Row, row_of
from factorlm.engines.vllm.languages import EVERY_CUT, rules_of
from factorlm.engines.vllm.orders import KEY, Order, read_orders, sha256_of, write_orders
from factorlm.engines.vllm.reading import STORES, Reader, find
from factorlm.engines.vllm.served import Served
from factorlm.engines.vllm.versions import UNVALIDATED, remember_validated, require_validated, validated_versions
from factorlm.errors import IncompatibleError, InputError, UnknownNameError
from factorlm.factors import lexicon
from factorlm.factors.head import EncoderCard, Head, HeadStack, HeadWeights
from factorlm.factors.manifest import HeadSettings, LexiconSettings, Manifest, PromptSettings
from factorlm.factors.store import Store
from factorlm.models import CausalLM

CPU = torch.device("cpu")
MakeHead = Callable[..., Head]


def drawn(batch: Batch, size: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    hidden_BD = torch.randn(size, width, generator=torch.Generator().manual_seed(seed))
    return hidden_BD, batch.shifted(hidden_BD)


def test_shift_is_that_of_the_head_stack(make_head: MakeHead, tiny_lm: CausalLM) -> None:
    heads = [make_head(0, 1), make_head(3, 2), make_head(2, 3)]
    exponent_BK = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [0.5, 1.5, 0.0]])
    batch = Batch(CPU)
    rows = [
        row_of([(h.weights, float(a)) for h, a in zip(heads, row, strict=True) if a], [0], []) for row in exponent_BK
    ]
    batch.change([], [(0, rows[0]), (1, None), (2, rows[2])], [], 3)
    hidden_BD, shifted_BD = drawn(batch, 3, tiny_lm.width)
    wanted_BD = hidden_BD + HeadStack(tuple(heads)).shift(hidden_BD, exponent_BK)
    torch.testing.assert_close(shifted_BD, wanted_BD)
    assert torch.equal(shifted_BD[1], hidden_BD[1])  # the same bits


def test_rows_follow_removals_additions_moves_and_swaps(make_head: MakeHead, tiny_lm: CausalLM) -> None:
    generator = torch.Generator().manual_seed(5)
    heads = [make_head(0, n) for n in range(6)]
    batch, wanted = Batch(CPU), {}

    def pick(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    size = 0
    for _ in range(200):
        added: list[tuple[int, Row | None]] = []
        moved: list[tuple[int, int, bool]] = []
        removed: list[int] = []
        if size and pick(2):
            place = pick(size)
            wanted.pop(place, None)
            removed.append(place)
            if place != size - 1:  # the last row closes the gap
                moved.append((size - 1, place, False))
                if size - 1 in wanted:
                    wanted[place] = wanted.pop(size - 1)
            size -= 1
        elif size < 5:
            head = heads[pick(6)] if pick(3) else None
            added.append((size, None if head is None else row_of([(head.weights, 1.0)], [0], [])))
            if head is not None:
                wanted[size] = head
            size += 1
        if size > 1 and pick(2):
            first, second = pick(size), pick(size)
            if first != second:
                moved.append((first, second, True))
                both = {second: wanted.pop(first, None), first: wanted.pop(second, None)}
                wanted.update({place: head for place, head in both.items() if head is not None})
        batch.change(removed, added, moved, size)
        if not size:
            continue
        hidden_BD, shifted_BD = drawn(batch, size, tiny_lm.width, seed=size)
        for place in range(size):
            shift_D = wanted[place].weights.bias_D if place in wanted else torch.zeros(tiny_lm.width)
            torch.testing.assert_close(shifted_BD[place], hidden_BD[place] + shift_D)


def test_only_the_call_that_tokens_are_drawn_from_is_steered(make_head: MakeHead) -> None:
    batch = Batch(CPU)
    assert not batch.disarm(3)  # warm-up
    batch.change([], [(0, row_of([(make_head(0, 1).weights, 1.0)], [0], []))], [], 2)
    batch.arm()
    assert batch.disarm(2)
    assert not batch.disarm(2)  # prompt log probabilities of as many tokens as there are rows
    batch.arm()
    with pytest.raises(RuntimeError, match="2 rows, and 6 are drawn"):
        batch.disarm(6)


def test_heads_that_nobody_wants_do_not_pile_up(make_head: MakeHead, tiny_lm: CausalLM) -> None:
    batch = Batch(CPU)
    for n in range(3 * RESIDENT):
        head = HeadWeights.shift(torch.full((tiny_lm.width,), float(n)))
        batch.change([], [(0, row_of([(head, 1.0)], [0], []))], [], 1)
        hidden_BD, shifted_BD = drawn(batch, 1, tiny_lm.width)
        torch.testing.assert_close(shifted_BD, hidden_BD + n)
        assert batch._stack is not None
        assert len(batch._stack.heads) <= RESIDENT


def test_a_lexicon_follows_its_text_and_takes_back_what_is_taken_back(tiny_lm: CausalLM) -> None:
    words = lexicon({"good": 2.0, "bad": -float("inf")}, whole_word=False).bind(tiny_lm)
    prompt, text, written = [0, *tiny_lm.encode_text("the ")], tiny_lm.encode_text("good the good"), list[int]()
    cursor = Cursor(words, 1.5, prompt, written)

    def wanted(read: list[int]) -> torch.Tensor:
        state = words.start(torch.tensor([prompt]))
        for token in read:
            state = words.extend(state, torch.tensor([token]))
        log_weight_V = state.log_weight_BV[0]
        return torch.where(log_weight_V == -torch.inf, log_weight_V, 1.5 * log_weight_V)

    for token in text:
        torch.testing.assert_close(cursor.log_weight(), wanted(written))
        written.append(token)
    del written[2:]
    torch.testing.assert_close(cursor.log_weight(), wanted(text[:2]))
    written += [3, -1]
    with pytest.raises(RuntimeError, match="not arrived"):
        cursor.log_weight()


def test_broken_rows_are_nan_and_impossible_stays_impossible(tiny_lm: CausalLM) -> None:
    words = lexicon({"good": -float("inf")}, whole_word=False).bind(tiny_lm)
    batch = Batch(CPU)
    cursor = Cursor(words, -0.0, [0], [])
    batch.change([], [(0, Row(is_broken=True)), (2, Row(cursors=(cursor,)))], [], 3)
    logit_BV = torch.randn(3, tiny_lm.vocabulary.size, generator=torch.Generator().manual_seed(0))
    found_BV = batch.weighed(logit_BV.clone())
    assert found_BV[0].isnan().all()
    assert torch.equal(found_BV[1], logit_BV[1])
    banned_V = words.start(torch.tensor([[0]])).log_weight_BV[0] == -torch.inf
    assert banned_V.any()
    assert torch.equal(found_BV[2] == -torch.inf, banned_V)


def test_orders_survive_the_way() -> None:
    orders = (Order("polite", 1.5, "a" * 64), Order("toxic", -2.0))
    assert read_orders(write_orders(orders)) == orders
    assert write_orders([]) == {}
    assert read_orders(None) == () == read_orders({"other": 1})
    assert read_orders({KEY: '{"polite": 2}'}) == (Order("polite", 2.0),) == read_orders({KEY: {"polite": 2}})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("polite", "JSON"),
        (7, "int"),
        ([["polite"]], "in it"),
        ([["../etc", 1]], "small letters"),
        ([["polite", "1"]], "finite"),
        ([["polite", float("nan")]], "finite"),
        ([["polite", True]], "finite"),
        ([["polite", 1, "abc"]], "64"),
        ([["polite", 1], ["polite", 2]], "twice"),
        ([[f"f{n}", 1] for n in range(300)], "at most"),
    ],
)
def test_orders_that_are_none_are_refused_in_one_line(said: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_orders({KEY: said})
    assert "\n" not in str(caught.value)


def save_head(store: Store, name: str, head: Head, fingerprint: str) -> Path:
    encoder = EncoderCard(name="tiny", fingerprint=fingerprint, width=head.weights.bias_D.shape[0])
    numbers = {"bias": head.weights.bias_D, "up": head.weights.up_DR, "down": head.weights.down_RD}
    manifest = Manifest(name=name, settings=HeadSettings(rank=head.weights.rank), encoder=encoder)
    return store.save(manifest, numbers, replace=True)


def test_factors_are_found_by_name_and_hash_in_any_store(
    tmp_path: Path, tiny_folder: Path, tiny_lm: CausalLM, make_head: MakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Store(tmp_path / "a" / "factors"), Store(tmp_path / "b" / "factors")
    first = sha256_of(save_head(ours, "mine", make_head(0, 1), tiny_lm.fingerprint))
    second = sha256_of(save_head(theirs, "mine", make_head(2, 2), tiny_lm.fingerprint))
    monkeypatch.setenv(STORES, os.pathsep.join([str(tmp_path / "*" / "factors"), str(tmp_path / "none")]))
    reader = Reader(Served.of(str(tiny_folder)))
    assert find(Order("mine", 1.0, second)).parent == theirs.folder
    part = reader.part(Order("mine", 1.0, first))
    assert isinstance(part, HeadWeights)
    assert torch.equal(part.bias_D, make_head(0, 1).weights.bias_D)
    assert reader.part(Order("mine", 1.0)) is part
    save_head(ours, "mine", make_head(0, 3), tiny_lm.fingerprint)
    assert reader.part(Order("mine", 1.0, first)) is part  # a request that began with it goes on with it
    changed = reader.part(Order("mine", 1.0))
    assert isinstance(changed, HeadWeights)
    assert torch.equal(changed.bias_D, make_head(0, 3).weights.bias_D)
    with pytest.raises(UnknownNameError, match="changed since"):
        find(Order("mine", 1.0, first))
    with pytest.raises(UnknownNameError, match="did you mean mine"):
        find(Order("min", 1.0))


def test_what_does_not_fit_is_refused(
    tmp_path: Path, tiny_folder: Path, make_head: MakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "factors")
    save_head(store, "strange", make_head(0, 1), "0" * 16)
    store.save(Manifest(name="asked", settings=PromptSettings(instruction="Be kind.")))
    store.save(Manifest(name="words", settings=LexiconSettings(phrases={"good": 1.0})))
    monkeypatch.setenv(STORES, str(store.folder))
    reader = Reader(Served.of(str(tiny_folder)))
    with pytest.raises(IncompatibleError, match="needs the encoder"):
        reader.part(Order("strange", 1.0))
    with pytest.raises(IncompatibleError, match="a prompt"):
        reader.part(Order("asked", 1.0))
    assert not isinstance(reader.part(Order("words", 1.0)), HeadWeights)


def test_a_model_is_known_from_its_files(tiny_folder: Path, tiny_lm: CausalLM) -> None:
    served = Served.of(str(tiny_folder))
    assert served.fingerprint == tiny_lm.fingerprint
    assert served.vocabulary == tiny_lm.vocabulary
    assert (served.start_ids, served.end_ids, served.max_tokens) == (tiny_lm.start_ids, (1,), tiny_lm.max_tokens)
    assert served.encode_text("the good") == tiny_lm.encode_text("the good")


@pytest.mark.model
def test_the_default_model_is_known_from_its_files(lm: CausalLM) -> None:
    served = Served.of(lm.name)
    assert served.fingerprint == lm.fingerprint  # the unembedding is the embedding, and stored once
    assert (served.start_ids, served.end_ids) == (lm.start_ids, lm.vocabulary.end_ids)


def test_versions_that_were_not_checked_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "validated.json"
    file.write_text(json.dumps({"vllm": ["0.1.0"]}))
    monkeypatch.delenv(UNVALIDATED, raising=False)
    assert require_validated("0.1.0", file) == "0.1.0"
    with pytest.raises(IncompatibleError, match=r"0\.1\.0.*got 0\.2\.0.*check"):
        require_validated("0.2.0", file)
    monkeypatch.setenv(UNVALIDATED, "0.2.0")
    assert require_validated("0.2.0", file) == "0.2.0"
    remember_validated("0.2.0", file)
    assert validated_versions(file) == ["0.1.0", "0.2.0"]
    assert validated_versions()  # what is shipped


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("choice", '["one", "two"]'),
        ("regex", "[a-z]+"),
        ("json_schema", '{"type": "integer"}'),
        ("grammar", 'start: "a" | "b"'),
        ("grammar", 'root ::= "a" | "b"'),
    ],
)
def test_every_language_becomes_rules_that_llguidance_reads(kind: str, content: str) -> None:
    import llguidance

    rules = rules_of(kind, content)
    assert rules.startswith(EVERY_CUT)
    assert not llguidance.LLMatcher.validate_grammar(llguidance.grammar_from("grammar", rules))


def test_no_language_is_refused() -> None:
    with pytest.raises(InputError, match="one of"):
        rules_of("verse", "")
    with pytest.raises(InputError):
        rules_of("json_schema", "{")
