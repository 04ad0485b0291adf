"""Operators against enumeration of every text, on languages that remember their first token."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.algebra import (
    Backoff,
    BackoffRatio,
    Factor,
    Interpolation,
    LocalProduct,
    Mixture,
    Named,
    Power,
    Product,
    global_product,
    laws,
    local_product,
    log_weights_of_texts,
    total_variation,
)
from factorlm.errors import InputError
from factorlm.models.table import Table, markov_pair, random_table
from factorlm.text import letters

MAX_TOKENS = 4


def table(seed: int, zeros: float = 0.0, is_normalized: bool = True) -> Table:
    generator = torch.Generator().manual_seed(seed)
    return random_table("ab", MAX_TOKENS, generator, zeros=zeros, is_normalized=is_normalized)


A, B, C = table(1), table(2), table(3, is_normalized=False)
HOLES = table(4, zeros=0.4)


def shy(seed: int) -> Table:
    """Says at each token another share of what it would, sometimes all of it and sometimes nothing."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    full = table(seed)
    drawn = {text: shares[int(torch.randint(3, (), generator=generator))] for text in full.log_weight}
    return Table(full.tokens, {text: row + drawn[text].log() for text, row in full.log_weight.items()})


SHY = shy(6)

OPERATORS: dict[str, Factor] = {
    "product": Product((A, B, C)),
    "quotient": A / B,
    "power": A**2.5,
    "negative power": HOLES**-1.0,
    "zero power": HOLES**0.0,
    "union": A | B,
    "intersection": A & HOLES,
    "interpolation": Interpolation((A, B), (0.3, 0.7)),
    "back-off": Backoff((SHY, HOLES)),
    "back-off ratio": BackoffRatio((SHY, HOLES)),
    "mixture": Mixture((A, HOLES, B), (0.2, 0.5, 0.3)),
    "local product": LocalProduct(A * C),
    "named": Named("a", A * B),
    "nested": LocalProduct(Mixture((A, B * C), (0.5, 0.5)) / Interpolation((A, B), (0.5, 0.5)) * (A | B) ** 2),
}
NORMALIZED = {"interpolation", "back-off", "mixture", "local product", "nested"}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_obey_the_laws(name: str) -> None:
    prefixes = [[], [1], [0, 1]]
    for texts in ([[0, 1], [1, 0], [1, 1]], [[0], [0], [1]]):
        laws.check(OPERATORS[name], prefixes, texts, is_normalized=name in NORMALIZED)


def test_exponents_by_row_follow_their_rows() -> None:
    exponents = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    by_row = A * Power(B, exponents)
    prefix_BT = torch.tensor([[0], [0], [1]])
    state = by_row.reorder(by_row.start(prefix_BT), torch.tensor([2, 0]))
    state = by_row.extend(state, torch.tensor([0, 1]))
    for row, (source, token) in enumerate(((2, 0), (0, 1))):
        alone = A * B ** float(exponents[source])
        want = alone.extend(alone.start(prefix_BT[source : source + 1]), torch.tensor([token]))
        torch.testing.assert_close(state.log_weight_BV[row], want.log_weight_BV[0])
    with pytest.raises(InputError, match="one exponent for each of 2 rows"):
        by_row.start(prefix_BT[:2])


def weights(factor: Factor) -> dict[tuple[int, ...], float]:
    return log_weights_of_texts(factor, MAX_TOKENS)


def test_the_enumeration_sees_every_text() -> None:
    texts = set(weights(A))
    want = {(*t, 2) for n in range(MAX_TOKENS) for t in itertools.product((0, 1), repeat=n)}
    assert texts == want
    assert math.isclose(sum(math.exp(w) for w in weights(A).values()), 1, abs_tol=1e-12)


def test_a_product_multiplies_weights_of_whole_texts() -> None:
    a, b, c = weights(A), weights(B), weights(C)
    for text, got in weights(A * B**0.5 / C).items():
        assert got == pytest.approx(a[text] + 0.5 * b[text] - c[text], abs=1e-12)


def test_a_mixture_mixes_weights_of_whole_texts_and_an_interpolation_does_not() -> None:
    a, b = weights(A), weights(B)
    want = {t: math.log(0.3 * math.exp(a[t]) + 0.7 * math.exp(b[t])) for t in a}
    assert weights(Mixture((A, B), (0.3, 0.7))) == pytest.approx(want, abs=1e-12)
    other = weights(Interpolation((A, B), (0.3, 0.7)))
    assert max(abs(other[t] - want[t]) for t in want) > 0.01
    assert sum(map(math.exp, other.values())) == pytest.approx(1, abs=1e-12)


def test_a_mixture_updates_its_posterior_by_bayes() -> None:
    mixture = Mixture((A, B), (0.3, 0.7))
    state = mixture.extend(mixture.start(torch.tensor([[1]])), torch.tensor([0]))
    step = [float(p.start(torch.tensor([[1]])).log_weight_BV[0, 0].exp()) for p in (A, B)]
    want = 0.3 * step[0] / (0.3 * step[0] + 0.7 * step[1])
    assert float(mixture.posterior(state)[0, 0].exp()) == pytest.approx(want, abs=1e-12)


def test_union_and_intersection_take_the_larger_and_smaller_step() -> None:
    prefix = torch.tensor([[0, 1]])
    a_V, b_V = (p.start(prefix).log_weight_BV[0] for p in (A, B))
    torch.testing.assert_close((A | B).start(prefix).log_weight_BV[0], torch.maximum(a_V, b_V))
    torch.testing.assert_close((A & B).start(prefix).log_weight_BV[0], torch.minimum(a_V, b_V))
    assert weights(A | A) == weights(A)
    assert weights(A | B) == weights(B | A)
    assert weights(A & B) == weights(B & A)


def test_subtracting_a_union_pushes_down_only_what_the_other_prefers() -> None:
    prefix = torch.tensor([[0]])
    a_V, b_V = (p.start(prefix).log_weight_BV[0] for p in (A, B))
    got_V = (A / (A | B) ** 0.9).start(prefix).log_weight_BV[0] / 0.1
    kept_V = b_V <= a_V
    torch.testing.assert_close(got_V[kept_V], a_V[kept_V])
    assert (got_V[~kept_V] < a_V[~kept_V]).all()


def test_global_and_local_product_differ_as_computed_by_hand() -> None:
    first, second = markov_pair()
    product = first * second
    assert sum(map(math.exp, log_weights_of_texts(product, 3).values())) == pytest.approx(0.25, abs=1e-12)
    exact, local = global_product(product, 3), local_product(product, 3)
    assert sum(p for text, p in exact.items() if text[0] == 1) == pytest.approx(0.18, abs=1e-12)
    assert sum(p for text, p in local.items() if text[0] == 1) == pytest.approx(0.5, abs=1e-12)
    assert total_variation(exact, local) == pytest.approx(0.32, abs=1e-12)


def test_local_product_times_its_normalisers_is_the_global_weight() -> None:
    product = A * B**2
    local, whole = weights(LocalProduct(product)), weights(product)
    for text in whole:
        state, log_normalizers = product.start(torch.empty(1, 0, dtype=torch.long)), 0.0
        for token in text:
            log_normalizers += float(state.log_weight_BV.logsumexp(-1))
            state = product.extend(state, torch.tensor([token]))
        assert whole[text] == pytest.approx(local[text] + log_normalizers, abs=1e-10)


@pytest.mark.parametrize("exponent", [-2.0, 0.0, 0.5, 3.0])
def test_what_was_impossible_stays_impossible(exponent: float) -> None:
    before, after = weights(HOLES), weights(HOLES**exponent)
    assert any(w == -math.inf for w in before.values())
    for text, weight in after.items():
        assert (weight == -math.inf) == (before[text] == -math.inf)


def test_all_tokens_impossible_is_no_nan() -> None:
    nothing = Table(letters("ab"), {(): torch.full((3,), -torch.inf, dtype=torch.float64)})
    for factor in (nothing * A, nothing**-1.0, LocalProduct(nothing), Mixture((nothing, nothing), (0.5, 0.5))):
        assert (factor.start(torch.empty(1, 0, dtype=torch.long)).log_weight_BV == -torch.inf).all()


tables = st.builds(table, st.integers(0, 10**6), st.sampled_from([0.0, 0.3]), st.booleans())
exponents = st.floats(-3, 3, allow_nan=False)


def same(p: Factor, q: Factor) -> bool:
    got, want = weights(p), weights(q)
    return all(got[t] == want[t] or abs(got[t] - want[t]) < 1e-9 for t in want)


@settings(max_examples=25, deadline=None)
@given(tables, tables, tables, exponents, exponents)
def test_algebra_of_products(p: Table, q: Table, r: Table, a: float, b: float) -> None:
    assert same(p * q, q * p)
    assert same((p * q) * r, p * (q * r))
    assert same((p * q) ** a, p**a * q**a)
    assert same((p**a) ** b, p ** (a * b))
    assert same(p**a * p**b, p ** (a + b))


@settings(max_examples=25, deadline=None)
@given(tables, st.floats(-5, 5))
def test_zero_exponent_and_constant_factor(p: Table, constant: float) -> None:
    possible = {t for t, w in weights(p).items() if w > -math.inf}
    assert {t: w for t, w in weights(p**0.0).items() if t in possible} == dict.fromkeys(possible, 0.0)
    log_weight = {t: torch.full((3,), constant, dtype=torch.float64) for t in p.log_weight}
    flat = Table(p.vocabulary, log_weight)
    assert local_product(p * flat, MAX_TOKENS) == pytest.approx(local_product(p, MAX_TOKENS), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interpolation((A, B), (0.3, 0.3)), "sum to 1"),
        (lambda: Mixture((A, B), (1.5, -0.5)), "non-negative"),
        (lambda: Mixture((A, B), (1.0,)), "one weight for each"),
        (lambda: A ** float("nan"), "finite"),
        (lambda: (A * random_table("abc", 2, torch.Generator())).vocabulary, "one vocabulary"),
        (lambda: Product(()).vocabulary, "at least one"),
    ],
)
def test_bad_operators_say_what_is_wrong(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_back_off_is_an_interpolation_whose_weights_depend_on_the_context() -> None:
    full, rest, backoff = table(6), A, Backoff((SHY, A))
    shares = set()
    for text in full.log_weight:
        prefix_BT = torch.tensor([list(text)], dtype=torch.long).reshape(1, len(text))
        said_V = SHY.start(prefix_BT).log_weight_BV[0].exp()
        share = float(said_V.sum())
        want_V = (
            share * full.start(prefix_BT).log_weight_BV[0].exp()
            + (1 - share) * rest.start(prefix_BT).log_weight_BV[0].exp()
        )
        torch.testing.assert_close(backoff.start(prefix_BT).log_weight_BV[0].exp(), want_V)
        shares.add(round(share, 6))
    assert shares == {0.0, 0.3, 1.0}


def test_back_off_lets_one_part_speak_where_the_other_is_at_a_dead_end() -> None:
    dead = torch.full((3,), -torch.inf, dtype=torch.float64)
    said = torch.tensor([0.1, 0.2, 0.1], dtype=torch.float64).log()
    combine = Backoff((A, A)).combine
    torch.testing.assert_close(
        combine(torch.stack([said, dead])[:, None]).exp()[0], torch.tensor([0.25, 0.5, 0.25]).double()
    )
    assert combine(torch.stack([dead, dead])[:, None]).eq(-torch.inf).all()
    with pytest.raises(InputError, match="two parts"):
        Backoff((A,))


def test_a_back_off_ratio_times_its_second_part_is_the_back_off() -> None:
    for text in A.log_weight:
        prefix_BT = torch.tensor([list(text)], dtype=torch.long).reshape(1, len(text))
        times = A * BackoffRatio((SHY, A))
        torch.testing.assert_close(
            times.start(prefix_BT).log_weight_BV, Backoff((SHY, A)).start(prefix_BT).log_weight_BV
        )


def test_a_back_off_is_the_same_where_few_tokens_are_said() -> None:
    generator = torch.Generator().manual_seed(0)
    rest_BV = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    said_BV = torch.full((3, 40), -torch.inf, dtype=torch.float64)
    said_BV[0, 3], said_BV[0, 7], said_BV[1, 5] = math.log(0.2), math.log(0.5), 0.0
    got_BV = Backoff((A, A)).combine(torch.stack([said_BV, rest_BV]))
    prob_BV = rest_BV.softmax(-1)
    want_BV = said_BV.exp() + (1 - said_BV.exp().sum(-1, keepdim=True)) * prob_BV
    torch.testing.assert_close(got_BV.exp(), want_BV)
    assert got_BV[1].isneginf().sum() == 39
