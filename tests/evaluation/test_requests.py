"""Requests against sums over single steps, one request at a time, and the harness's own windows."""

from collections.abc import Callable

import pytest
import torch

from factorlm.algebra import LocalProduct
from factorlm.errors import InputError
from factorlm.evaluation import requests
from factorlm.evaluation.requests import Tokenization, generate_until, loglikelihood, rolling, score_tokens
from factorlm.factors import bind, lexicon
from factorlm.factors.head import Head
from factorlm.inference import Model, Sampling
from factorlm.models import CausalLM

FLOAT32 = 1e-4
REQUESTS = [
    ("the good", " bad"),
    ("the good", " house, in a good, good"),
    ("the good ", "bad"),
    ("", "in the bad"),
    (" ", "in the bad"),
    ("a, b, c, d", ": the good"),
    ("the good", " bad"),
]


@pytest.fixture(scope="module")
def plain(tiny_lm: CausalLM) -> Model:
    return Model(tiny_lm, tiny_lm)


@pytest.fixture(scope="module")
def composed(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> Model:
    words = bind(lexicon({"good": 1.5}), tiny_lm)
    return Model(LocalProduct(tiny_lm * make_head(2, 1) ** 1.5 * words**-0.5), tiny_lm)


def by_steps(model: Model, context: tuple[int, ...], text: tuple[int, ...]) -> tuple[float, bool]:
    """Token by token, one text at a time."""
    product = model.factor if isinstance(model.factor, LocalProduct) else LocalProduct(model.factor)
    state, total, is_greedy = product.start(torch.tensor([context])), 0.0, True
    for token in text:
        log_prob_V = state.log_weight_BV[0]
        total += float(log_prob_V[token])
        is_greedy = is_greedy and int(log_prob_V.argmax()) == token
        state = product.extend(state, torch.tensor([token]))
    return total, is_greedy


@pytest.mark.parametrize("which", ["plain", "composed"])
def test_loglikelihood_is_the_sum_of_steps(which: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    tokens = Tokenization.of(model.lm)
    found = loglikelihood(model, REQUESTS)
    for pair, likelihood in zip(REQUESTS, found, strict=True):
        log_prob, is_greedy = by_steps(model, *tokens.pair(*pair))
        assert likelihood.log_prob == pytest.approx(log_prob, abs=FLOAT32)
        assert likelihood.is_greedy == is_greedy
        assert likelihood.num_tokens == len(tokens.pair(*pair)[1])
        assert likelihood.num_cut == 0


def test_what_greedy_decoding_writes_is_greedy(composed: Model) -> None:
    start_ids = composed.lm.start_ids
    row = composed.generate("the good", max_tokens=6, sampling=Sampling(temperature=0.0))[0].token_ids
    other = (*row[:-1], (row[-1] + 1) % composed.lm.vocabulary.size)
    context = (*start_ids, *composed.lm.encode_text("the good"))
    assert [found.is_greedy for found in score_tokens(composed, [(context, row), (context, other)])] == [True, False]


def test_a_batch_is_its_requests_one_by_one(composed: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    together = loglikelihood(composed, REQUESTS)
    alone = [loglikelihood(composed, [request])[0] for request in REQUESTS]
    monkeypatch.setattr(requests, "READ_TOKENS", 20)
    monkeypatch.setattr(requests, "FEW_TOKENS", 1)
    small = loglikelihood(composed, REQUESTS)
    for a, b, c in zip(together, alone, small, strict=True):
        assert a.log_prob == pytest.approx(b.log_prob, abs=FLOAT32)
        assert a.log_prob == pytest.approx(c.log_prob, abs=FLOAT32)
        assert a[1:] == b[1:] == c[1:]


def test_batches_hold_every_pair_once_and_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (tuple(range(int(n))), tuple(range(int(k))))
        for n, k in torch.randint(1, 400, (300, 2), generator=generator).tolist()
        if k <= 40
    ]
    pairs += [((1, 2, 3), (k,)) for k in range(50)]
    batches = list(requests._batches(pairs))
    assert sorted(pair for batch in batches for pair in batch) == sorted(pairs)
    for batch in batches:
        width = max(len(context) for context, _ in batch) + max(len(text) for _, text in batch)
        assert len(batch) == 1 or len(batch) * width <= requests.READ_TOKENS
    assert sum(any(context == (1, 2, 3) for context, _ in batch) for batch in batches) == 1


def test_equal_requests_are_read_once(fresh_lm: CausalLM) -> None:
    model = Model(fresh_lm, fresh_lm)
    loglikelihood(model, [("the good", " bad, bad")])
    once = fresh_lm.num_tokens_read
    loglikelihood(model, [("the good", " bad, bad")] * 5)
    assert fresh_lm.num_tokens_read == 2 * once


def test_blanks_move_and_the_start_token_stands_first(plain: Model) -> None:
    tokens = Tokenization.of(plain.lm)
    encode, start_ids = plain.lm.encode_text, plain.lm.start_ids
    assert tokens.pair("the", " good") == ((*start_ids, *encode("the")), tuple(encode(" good")))
    assert tokens.pair("the \n", "good") == ((*start_ids, *encode("the")), tuple(encode(" \ngood")))
    assert tokens.pair("", "good") == tokens.pair("", "good") == (start_ids, tuple(encode("good")))
    assert tokens.pair("  ", "good") == (start_ids, tuple(encode("  good")))


def test_a_start_token_is_not_doubled() -> None:
    tokens = Tokenization(lambda text: [ord(letter) for letter in text], (ord("<"),), (ord("<"),))
    assert tokens.whole("<a") == tokens.whole("a") == tuple(map(ord, "<a"))
    assert tokens.pair("", "<a") == (tuple(map(ord, "<")), tuple(map(ord, "a")))
    bare = Tokenization(tokens.encode, (), (7,))
    assert bare.pair("ab", "c") == (tuple(map(ord, "ab")), (ord("c"),))
    assert bare.pair("", "c") == ((7,), (ord("c"),))


def test_a_continuation_without_tokens_is_refused(plain: Model) -> None:
    with pytest.raises(InputError, match="at least one token is needed, got 'd' after a context that ends with 'goo'"):
        loglikelihood(plain, [("goo", "d")])
    with pytest.raises(InputError, match="at least one token"):
        loglikelihood(plain, [("the", "")])


def test_long_contexts_lose_their_beginning_and_say_so(composed: Model) -> None:
    tokens = Tokenization.of(composed.lm)
    context, text = tokens.pair("the good, the bad, a house", " in a good house")
    limit = len(text) + 3
    found = score_tokens(composed, [(context, text)], max_length=limit)[0]
    assert found.num_cut == len(context) - 4  # the last token of the text is not read
    want, _ = by_steps(composed, context[-4:], text)
    assert found.log_prob == pytest.approx(want, abs=FLOAT32)
    with pytest.raises(InputError, match=f"at most {len(text) - 1} tokens is needed, got {len(text)}"):
        score_tokens(composed, [(context, text)], max_length=len(text) - 1)


def test_the_whole_context_can_be_used(plain: Model) -> None:
    ids = tuple(int(i) for i in torch.randint(2, 50, (300,), generator=torch.Generator().manual_seed(0)))
    limit = plain.lm.max_tokens
    found = score_tokens(plain, [(ids[:limit], ids[limit : limit + 1]), (ids[:200], ids[200:])])
    assert [f.num_cut for f in found] == [0, 43]


def test_windows_are_those_of_the_harness() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    for number in range(30):
        for size in range(1, 12):
            ids = tuple(range(number))
            windows = utils.get_rolling_token_windows(list(ids), 99, size, 1)
            want = [tuple(map(tuple, utils.make_disjoint_window(window))) for window in windows]
            assert requests._windows(ids, (99,), size) == want


def test_rolling_reads_every_token_once(composed: Model) -> None:
    texts = ["the good, the bad, a house in a good house", "a", ""]
    whole = rolling(composed, texts)
    assert whole[0] == pytest.approx(composed.score(texts[0])[0].log_prob, abs=FLOAT32)
    assert whole[2] == 0
    ids = tuple(composed.lm.encode_text(texts[0]))
    assert len(ids) == 26
    want = sum(
        by_steps(composed, *pair)[0]
        for pair in [
            (composed.lm.start_ids, ids[:10]),
            (ids[9:10], ids[10:20]),
            (ids[15:20], ids[20:]),  # the last window reads as much before its tokens as it can
        ]
    )
    assert rolling(composed, texts, max_length=10)[0] == pytest.approx(want, abs=FLOAT32)


def test_greedy_texts_are_those_of_generate(composed: Model) -> None:
    contexts = ["the good", "a house in a", "bad, bad"]
    found = generate_until(composed, [(context, (), 9) for context in contexts])
    want = composed.generate(contexts, max_tokens=9, sampling=Sampling(temperature=0.0))
    assert [w.text for w in found] == [r.text for r in want]
    assert [w.num_tokens for w in found] == [len(r.token_ids) for r in want]
    assert [w.finish_reason for w in found] == [r.finish_reason for r in want]


def test_repeated_contexts_are_samples_and_lengths_and_stops_are_their_own(composed: Model) -> None:
    sampling = Sampling(temperature=1.0)
    asked = [("the good", (), 12), ("a house", ("o",), 5), ("the good", (), 12), ("the good", ("e", ""), 3)]
    found = generate_until(composed, asked, sampling=sampling, seed=3)
    want = composed.generate("the good", n=2, max_tokens=12, seed=3)
    assert [found[0].text, found[2].text] == [r.text for r in want]
    assert found[0].text != found[2].text
    free = composed.generate("a house", max_tokens=5, seed=3)[0]
    assert found[1].text == free.text.partition("o")[0]
    assert found[3].num_tokens <= 3
    assert "e" not in found[3].text


def test_a_context_without_room_loses_its_beginning_and_says_so(composed: Model) -> None:
    ids = [*composed.lm.start_ids, *composed.lm.encode_text("the good, the bad, a house")]
    found = generate_until(composed, [("the good, the bad, a house", (), 4)], max_length=10)[0]
    assert found.num_cut == len(ids) - 6
    state = LocalProduct(composed.factor).start(torch.tensor([ids[-6:]]))
    first = composed.lm.vocabulary.token_bytes[int(state.log_weight_BV.argmax())]
    assert found.text.encode().startswith(first)
    with pytest.raises(InputError, match="fewer than 10 new tokens are needed"):
        generate_until(composed, [("the", (), 10)], max_length=10)


def test_progress_is_told(plain: Model) -> None:
    told: list[tuple[int, int]] = []
    loglikelihood(plain, REQUESTS, report=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)  # the blank contexts, and the two equal requests, are read once
    told.clear()
    generate_until(plain, [("a", (), 2), ("b", (), 3)], report=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_nothing_asked_is_nothing_found(plain: Model) -> None:
    assert loglikelihood(plain, []) == []
    assert rolling(plain, []) == []
    assert generate_until(plain, []) == []
