"""Counting: hand-made cases, the same distribution over other tokens and other scripts, and lm-eval's aggregation."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from factorlm.evaluation.intervals import Estimate, ratio_interval
from factorlm.evaluation.perplexity import token_log_probs
from factorlm.evaluation.units import (
    Counts,
    by_position,
    compare_rates,
    macro_mean,
    parity,
    rate,
)
from factorlm.inference import Model
from factorlm.models import CausalLM
from factorlm.models.table import Table, random_table
from factorlm.text import Vocabulary, letters

LATIN, GREEK = "abcdefgh", "αβγδεζηθ"


def counted(texts: list[str], vocabulary: Vocabulary, nats: float) -> Counts:
    """Texts of one-letter tokens that cost the same each."""
    number = {token: i for i, token in enumerate(vocabulary.token_bytes)}
    ids = [[number[letter.encode()] for letter in text] for text in texts]
    return Counts.of(texts, ids, [np.full(len(row), -nats) for row in ids], vocabulary)


def test_counts_by_hand() -> None:
    vocabulary = Vocabulary((b"na", "ïve".encode(), b" fin", "é".encode()[:1], "é".encode()[1:], b"\n\n", b""), (6,))
    text = "naïve finé\n\n"
    counts = Counts.of([text], [[0, 1, 2, 3, 4, 5]], [np.array([-1.0, -2, -3, -4, -5, -6])], vocabulary)
    values = (counts.nats_D, counts.tokens_D, counts.words_D, counts.characters_D, counts.bytes_D)
    assert [float(v[0]) for v in values] == [21, 6, 2, 12, 14]
    assert counts.perplexity().value == pytest.approx(math.exp(21 / 6))
    assert counts.word_perplexity().value == pytest.approx(math.exp(21 / 2))
    assert counts.bits_per_byte().value == pytest.approx(21 / math.log(2) / 14)
    assert counts.bits_per_character().value == pytest.approx(21 / math.log(2) / 12)
    assert counts.bits_per_document().value == pytest.approx(21 / math.log(2))
    assert counts.fertility().value == 3
    assert counts.bytes_per_token().value == pytest.approx(14 / 6)


def test_what_the_first_token_spells_is_left_out_with_it() -> None:
    vocabulary = Vocabulary((b"to", b"day is", b" ", b"fine", b" to", b""), (5,))
    nan = math.nan
    cases = {
        (0, 1, 2, 3): (11, 2),  # the word "today" is no longer whole, so it does not count
        (2, 3, 4): (7, 2),  # a blank in front: "fine to" stays whole
        (4, 1): (6, 1),  # "to" with its blank, then "day is"
        (3,): (0, 0),
    }
    for ids, (num_bytes, num_words) in cases.items():
        text = vocabulary.decode(ids).decode()
        log_prob_T = np.array([nan, *[-1.0] * (len(ids) - 1)])
        counts = Counts.of([text], [list(ids)], [log_prob_T], vocabulary)
        assert (counts.bytes_D[0], counts.words_D[0]) == (num_bytes, num_words), text
        assert counts.tokens_D[0] == counts.nats_D[0] == len(ids) - 1
    # A character that is cut goes with the first token, and so does its word.
    cut = Vocabulary((b"a \xe2", b"\x82\xacb", b""), (2,))
    counts = Counts.of(["a €b"], [[0, 1]], [np.array([nan, -1])], cut)
    assert (counts.bytes_D[0], counts.characters_D[0], counts.words_D[0]) == (1, 1, 0)
    # Tokens that spell a blank which the text has not: one byte less is left out.
    counts = Counts.of(["to fine"], [[4, 2, 3]], [np.array([nan, -1, -1])], vocabulary)
    assert (counts.bytes_D[0], counts.characters_D[0], counts.words_D[0]) == (5, 5, 1)


def test_a_byte_model_that_knows_nothing_needs_eight_bits_a_byte() -> None:
    vocabulary = Vocabulary((*(bytes([b]) for b in range(256)), b""), (256,))
    texts = ["naïve café", "€ 5", "plain"]
    ids = [list(text.encode()) for text in texts]
    counts = Counts.of(texts, ids, [np.full(len(row), -math.log(256)) for row in ids], vocabulary)
    assert counts.bits_per_byte().value == pytest.approx(8)
    assert counts.perplexity().value == pytest.approx(256)


def test_a_corpus_is_no_mean_of_its_documents() -> None:
    vocabulary = letters(LATIN)
    lengths, nats = (4, 4, 4), (0.5, 1.0, 3.0)
    parts = [counted(["abcd"], vocabulary, n) for n in nats]
    whole = Counts(*(np.concatenate([getattr(p, f) for p in parts]) for f in Counts.__dataclass_fields__))
    of_documents = [p.perplexity().value for p in parts]
    corpus = whole.perplexity().value
    assert corpus == pytest.approx(math.exp(np.dot(lengths, nats) / sum(lengths)))
    assert corpus is not None
    assert corpus < float(np.mean(np.array(of_documents, float))), "Jensen: documents are equally long"


def test_figures_are_those_of_lm_eval() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics", reason="lm-eval is not installed")
    texts = ["ab cab", "b", "abc abc abc a"]
    vocabulary = Vocabulary((b"a", b"b", b"c", b" ", b""), (4,))
    nats = [3.5, 0.25, 9.0]
    ids = [["abc ".index(c) for c in text] for text in texts]
    rows = [np.full(len(text), -n / len(text)) for text, n in zip(texts, nats, strict=True)]
    counts = Counts.of(texts, ids, rows, vocabulary)
    words = [(-n, len(re.split(r"\s+", t))) for n, t in zip(nats, texts, strict=True)]
    size = [(-n, len(t.encode())) for n, t in zip(nats, texts, strict=True)]
    assert counts.word_perplexity().value == pytest.approx(metrics.weighted_perplexity(words))
    assert counts.bits_per_byte().value == pytest.approx(metrics.bits_per_byte(size))


def test_one_distribution_over_letters_and_over_pairs_needs_the_same_bits() -> None:
    single = random_table("ab", 7, torch.Generator().manual_seed(0))
    pairs = Vocabulary((b"aa", b"ab", b"ba", b"bb", b""), (4,))
    spelt = [(0, 0), (0, 1), (1, 0), (1, 1)]
    rows = {}
    for length in range(3):
        for text in itertools.product(range(4), repeat=length):
            before = tuple(letter for pair in text for letter in spelt[pair])
            log_prob = [single.log_weight[before][a] + single.log_weight[(*before, a)][b] for a, b in spelt]
            rows[text] = torch.stack([*log_prob, torch.tensor(-torch.inf, dtype=torch.float64)])
    double = Table(pairs, rows)
    texts = ["abba", "aabbab", "bb", "babaab"]
    found = []
    for table, size in ((single, 1), (double, 2)):
        number = {token: i for i, token in enumerate(table.vocabulary.token_bytes) if token}
        ids = [[number[text[i : i + size].encode()] for i in range(0, len(text), size)] for text in texts]
        rows_T = [table.score(torch.zeros(1, 0, dtype=torch.long), torch.tensor([row]))[0].numpy() for row in ids]
        found.append(Counts.of(texts, ids, rows_T, table.vocabulary))
    letter, pair = found
    assert letter.bits_per_byte().value == pytest.approx(pair.bits_per_byte().value, abs=1e-12)
    assert letter.word_perplexity().value == pytest.approx(pair.word_perplexity().value, rel=1e-12)
    assert letter.perplexity().value != pytest.approx(pair.perplexity().value, rel=0.1)


def spelling_model(alphabet: str) -> CausalLM:
    """A random network whose tokens are the letters of an alphabet: its weights know nothing of the script."""
    pieces = ["<s>", "</s>", *alphabet]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [])),
        bos_token="<s>",
        eos_token="</s>",
    )
    config = LlamaConfig(vocab_size=len(pieces), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.5, generator=generator)
    return CausalLM(network, tokenizer, name=alphabet, start_ids=(0,), end_ids=(1,))


def test_a_cipher_costs_the_same_and_bytes_tell_nothing_between_scripts() -> None:
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(LATIN), n)) for n in (40, 90, 7)]
    found = {}
    for name, alphabet in {"latin": LATIN, "cipher": LATIN[3:] + LATIN[:3], "greek": GREEK}.items():
        written = [text.translate(str.maketrans(LATIN, alphabet)) for text in texts]
        lm = spelling_model(alphabet)
        rows = token_log_probs(Model(lm, lm), written, window=16, stride=8)
        found[name] = Counts.of(written, [lm.encode_text(text) for text in written], rows, lm.vocabulary)
    plain = found["latin"]
    for other in (found["cipher"], found["greek"]):
        assert other.perplexity().value == pytest.approx(plain.perplexity().value, rel=1e-6)
        assert other.bits_per_character().value == pytest.approx(plain.bits_per_character().value, rel=1e-6)
    bits = [found[name].bits_per_byte().value for name in ("latin", "cipher", "greek")]
    assert bits[0] is not None
    assert bits[1:] == [pytest.approx(bits[0], rel=1e-6), pytest.approx(bits[0] / 2, rel=1e-6)]


def test_probability_zero_is_infinite_and_said_to_be() -> None:
    counts = Counts.of(
        ["ab", "ba"], [[0, 1], [1, 0]], [np.array([-1.0, -np.inf]), np.array([-1.0, -1.0])], letters("ab")
    )
    assert counts.num_impossible == 1
    for estimate in (counts.perplexity(), counts.word_perplexity(), counts.bits_per_byte()):
        assert (estimate.value, estimate.low, estimate.n) == (math.inf, None, 2)


def test_words_of_texts_without_white_space_are_not_measured() -> None:
    counts = counted(["abcd" * 50], letters("abcd"), 1.0)
    assert counts.word_perplexity() == Estimate(value=None, n=1)
    assert counts.perplexity().value == pytest.approx(math.e)


def test_nothing_to_count_is_no_number() -> None:
    empty = Counts.of([], [], [], letters("ab"))
    blank = Counts.of([""], [[]], [np.zeros(0)], letters("ab"))
    for counts in (empty, blank):
        assert counts.perplexity().value is None
        assert counts.bits_per_byte().value is None


def test_intervals_are_over_documents() -> None:
    generator = np.random.default_rng(0)
    nats_D, units_D = generator.gamma(5, 10, 30), generator.integers(10, 50, 30).astype(float)
    found = rate(nats_D, units_D, np.exp, seed=3)
    assert found == ratio_interval(nats_D, units_D, change=np.exp, seed=3)
    assert found.low is not None
    assert found.low < math.exp(nats_D.sum() / units_D.sum()) < found.high


def test_groups_weigh_the_same_in_the_macro_mean() -> None:
    big, small = (np.full(100, 4.0), np.full(100, 2.0)), (np.full(4, 1.0), np.full(4, 1.0))
    found = macro_mean([big, small])
    assert found.value == pytest.approx((2 + 1) / 2 / math.log(2))
    assert found.low == pytest.approx(found.value)  # documents are alike, so nothing varies
    assert macro_mean([big, (np.zeros(1), np.zeros(1))]).value is None
    uneven = macro_mean([(np.array([1.0, 9.0, 2.0, 3.0]), np.ones(4)), small])
    assert uneven.low is not None
    assert uneven.low < uneven.value < uneven.high


def test_parity_over_the_documents_both_hold() -> None:
    english = {"1": (10.0, 5.0), "2": (30.0, 5.0), "only": (1000.0, 1.0)}
    other = {"2": (40.0, 15.0), "1": (40.0, 15.0)}
    found = parity(english, other)
    assert found is not None
    assert (found.tokens.value, found.information.value) == (3.0, 0.5)
    assert found.tokens.n == 2
    assert parity(english, {"3": (1.0, 1.0)}) is None
    impossible = parity(english, {"1": (math.inf, 2.0)})
    assert impossible is not None
    assert impossible.information.value is None


def test_positions_by_hand() -> None:
    rows = [-np.arange(1.0, 8), -2 * np.arange(1.0, 10), -np.ones(2)]
    found, num_documents = by_position(rows)
    assert num_documents == 2, "the short one fills no stretch that half of the documents fill"
    assert [(s.first, s.last) for s in found] == [(1, 1), (2, 3), (4, 7)]
    assert [s.nats.value for s in found] == [1.5, 1.5 * 2.5, 1.5 * 5.5]
    rows[0][0] = math.nan  # not counted
    assert [s.nats.value for s in by_position(rows)[0]] == [2.0, 1.5 * 2.5, 1.5 * 5.5]


def test_positions_in_bytes() -> None:
    rows, sizes = [-np.array([3.0, 1.0, 4.0, 2.0])], [np.array([1, 2, 3, 1])]
    found, _ = by_position(rows, sizes)
    # Tokens begin at bytes 1, 2, 4 and 7; each counts where it begins.
    assert [(s.first, s.last, s.nats.value) for s in found] == [(1, 1, 3.0), (2, 3, 0.5), (4, 7, 6 / 4)]
    assert by_position([]) == ([], 0)
    assert by_position([np.zeros(0)]) == ([], 0)


def test_rates_are_compared_over_documents_that_have_any() -> None:
    generator = np.random.default_rng(1)
    units_D = np.array([*generator.integers(5, 20, 20), 0, 0]).astype(float)
    theirs_D = units_D * generator.uniform(1, 2, 22)
    found = compare_rates("nats", ("a", "b"), (theirs_D - 0.1 * units_D, theirs_D), (units_D, units_D))
    assert found.verdict == "better"
    assert found.difference.value == pytest.approx(-0.1)
    assert found.difference.n == 20
    ours_D = theirs_D.copy()
    ours_D[0] = math.inf
    assert compare_rates("nats", ("a", "b"), (ours_D, theirs_D), (units_D, units_D)).verdict == "cannot rank"
    few = compare_rates("nats", ("a", "b"), (theirs_D[:4], theirs_D[:4] + 1), (units_D[:4], units_D[:4]))
    assert few.verdict == "cannot rank"
