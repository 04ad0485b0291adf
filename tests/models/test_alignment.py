"""Two models of different tokenizers side by side: every match is checked against bytes and against single reads."""

import json
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from factorlm.models import CausalLM
from factorlm.models.alignment import LONGEST_TEXT, paired_states, shared_tokens
from factorlm.text import Vocabulary

TEXTS = ["the good bad thing in the box", "good", "a cat: b, c. d", "né € the", "", "the " * 60]


def cousin(lm: CausalLM, *, without: Sequence[str] = (), also: Sequence[str] = (), width: int = 24) -> CausalLM:
    """A random model whose tokenizer has other merges, and all its tokens in another order."""
    layout = json.loads(lm.tokenizer.backend_tokenizer.to_str())
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in layout["model"]["merges"]]
    merges = [merge for merge in merges if merge.replace(" ", "") not in without] + list(also)
    special = [token["content"] for token in layout["added_tokens"]]
    pieces = [p for p in layout["model"]["vocab"] if p not in without and p not in special]
    pieces += [merge.replace(" ", "") for merge in also]
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0)).tolist()
    ids = {piece: n for n, piece in enumerate([*special, *(pieces[n] for n in order)])}
    layout["model"] |= {"vocab": ids, "merges": merges}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(layout)), bos_token=special[0], eos_token=special[1]
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return CausalLM(LlamaForCausalLM(config), tokenizer, name="cousin", start_ids=(0,), end_ids=(1,))


@pytest.fixture(scope="module")
def other(tiny_lm: CausalLM) -> CausalLM:
    return cousin(tiny_lm, without=("good", "Ġgood", "Ġbad"), also=("Ġ a", "Ġ b", "in g", "â Ĥ"))


def test_tokens_of_the_same_bytes_are_shared(tiny_lm: CausalLM, other: CausalLM) -> None:
    old_S, new_S = shared_tokens(tiny_lm, other)
    old, new = tiny_lm.vocabulary.token_bytes, other.vocabulary.token_bytes
    assert [old[token] for token in old_S.tolist()] == [new[token] for token in new_S.tolist()]
    assert {new[token] for token in new_S.tolist()} == set(old) & set(new) - {b""}
    assert len(new_S) == len(new) - 2 - 4  # without the special tokens and those of the merges that it alone has


def test_a_vocabulary_is_itself(tiny_lm: CausalLM) -> None:
    old_S, new_S = shared_tokens(tiny_lm, tiny_lm)
    assert torch.equal(old_S, new_S)
    assert old_S.tolist() == [n for n, token_bytes in enumerate(tiny_lm.vocabulary.token_bytes) if token_bytes]


def test_of_tokens_of_the_same_bytes_the_written_one_is_taken(
    tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tiny_lm.vocabulary
    token = known.token_bytes.index(b"good")
    twice = (
        b"good",
        *known.token_bytes[1:],
    )  # as byte-fallback pieces are beside letters: no text is read as the first
    monkeypatch.setattr(tiny_lm, "_vocabulary", Vocabulary(twice, known.end_ids))
    old_S, new_S = shared_tokens(tiny_lm, tiny_lm)
    assert old_S[new_S == token].tolist() == [token]
    assert old_S[new_S == 0].tolist() == [token]


def test_states_are_paired_where_tokens_of_both_end(tiny_lm: CausalLM, other: CausalLM) -> None:
    """The slow twin: read each beginning of each text alone, and compare all pairs of the same bytes."""
    pairs = paired_states(tiny_lm, other, TEXTS)
    want = []
    for text in TEXTS:
        beginnings = []
        for lm in (tiny_lm, other):
            row = lm.encode_text(text)[:LONGEST_TEXT]
            beginnings.append({lm.vocabulary.decode(row[:n]): row[:n] for n in range(1, len(row))})
        for common in sorted(beginnings[0].keys() & beginnings[1].keys(), key=len):
            want.append((beginnings[0][common], beginnings[1][common]))
    assert len(pairs.text_N) == len(want) > 60
    assert sorted(set(pairs.text_N.tolist())) == list(range(4))  # two of the six texts have no place inside
    for n, rows in enumerate(want):
        for lm, states_ND, row in zip((tiny_lm, other), (pairs.old_ND, pairs.new_ND), rows, strict=True):
            alone_D = lm.encode(torch.tensor([[*lm.start_ids, *row]])).hidden_BD[0]
            torch.testing.assert_close(states_ND[n], alone_D, atol=1e-4, rtol=1e-4)  # sums in other orders


def test_texts_that_a_tokenizer_changes_are_left_out(tiny_lm: CausalLM, other: CausalLM) -> None:
    pairs = paired_states(tiny_lm, other, ["The Good", "the good"])  # both put texts into small letters
    same = paired_states(tiny_lm, other, ["the good"])
    assert len(pairs.text_N) == len(same.text_N) > 0


def test_no_texts_give_no_places(tiny_lm: CausalLM, other: CausalLM) -> None:
    pairs = paired_states(tiny_lm, other, [])
    assert pairs.old_ND.shape == (0, tiny_lm.width)
    assert pairs.new_ND.shape == (0, other.width)
