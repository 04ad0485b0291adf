"""One law in two ways: a model drawn for each response, and sequential Bayes; by counting every text."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from factorlm.algebra import (
    Factor,
    Interpolation,
    LocalProduct,
    Mixture,
    State,
    laws,
    log_normalize,
    log_weights_of_texts,
    pad_left,
    pad_right,
    total_variation,
)
from factorlm.errors import InputError
from factorlm.models.table import Table, random_table
from factorlm.prior.beliefs import draw_components
from factorlm.prior.drawing import write
from factorlm.prior.ensemble import Separate
from factorlm.prior.incontext import InContext
from factorlm.prior.mixture import Bayes, Blend, PerResponse, Together
from factorlm.text import Vocabulary

MAX_TOKENS = 4
WEIGHTS = (0.2, 0.5, 0.3)
# float32 sums in another order (batched, with a cache, padded) differ by about 1e-6 of logits of size 10.
FLOAT32 = 1e-4
PREFIXES = [[], [1], [0, 1]]


def table(seed: int, zeros: float = 0.0, max_tokens: int = MAX_TOKENS) -> Table:
    return random_table("ab", max_tokens, torch.Generator().manual_seed(seed), zeros=zeros)


def log(weights: tuple[float, ...]) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64).log()


PARTS = (table(1), table(2, zeros=0.3), table(3))
ENSEMBLE = Separate(PARTS)
BAYES = Bayes(ENSEMBLE, log(WEIGHTS))
BLEND = Blend(ENSEMBLE, log(WEIGHTS))


def probabilities(factor: Factor) -> dict[tuple[int, ...], float]:
    return {text: math.exp(found) for text, found in log_weights_of_texts(factor, MAX_TOKENS).items()}


def summed(weights: tuple[float, ...] = WEIGHTS) -> dict[tuple[int, ...], float]:
    """The definition: sum_k mu_k p_k(x) for every text."""
    found = [probabilities(part) for part in PARTS]
    return {text: math.fsum(w * p[text] for w, p in zip(weights, found, strict=True)) for text in found[0]}


def test_sequential_bayes_is_drawing_a_model_and_then_a_text() -> None:
    got, want = probabilities(BAYES), summed()
    assert got.keys() == want.keys()
    assert len(got) == 2**0 + 2**1 + 2**2 + 2**3
    assert abs(math.fsum(got.values()) - 1) < 1e-12
    assert max(abs(got[text] - want[text]) for text in want) < 1e-12
    mixture = probabilities(Mixture(PARTS, WEIGHTS))
    assert max(abs(got[text] - mixture[text]) for text in want) < 1e-12


def test_a_model_for_each_response_has_the_same_law() -> None:
    """Exactly, where each component is drawn with its weight."""
    found = [probabilities(PerResponse(ENSEMBLE, torch.tensor([k]))) for k in range(3)]
    for k, part in enumerate(PARTS):
        assert found[k] == probabilities(part)
    drawn = {text: math.fsum(w * p[text] for w, p in zip(WEIGHTS, found, strict=True)) for text in found[0]}
    got = probabilities(BAYES)
    assert max(abs(got[text] - drawn[text]) for text in drawn) < 1e-12


def test_texts_written_by_drawn_models_follow_the_mixture(chi_square: Callable[..., float]) -> None:
    """20,000 responses; a false alarm in a million."""
    generator = torch.Generator().manual_seed(0)
    component_B = draw_components(log(WEIGHTS), 20_000, generator, repeat=True)
    rows = write(PerResponse(ENSEMBLE, component_B), [[]] * len(component_B), MAX_TOKENS, generator)
    count: dict[object, int] = {}
    for row in rows:
        count[(*row, 2)] = count.get((*row, 2), 0) + 1
    assert chi_square(count, summed()) > 1e-6
    assert chi_square(count, probabilities(BLEND)) < 1e-6  # it could fail


def test_a_blend_is_interpolation_and_another_law() -> None:
    got = probabilities(BLEND)
    want = probabilities(Interpolation(tuple(LocalProduct(part) for part in PARTS), WEIGHTS))
    assert max(abs(got[text] - want[text]) for text in want) < 1e-12
    assert total_variation(got, summed()) > 0.04


@pytest.mark.parametrize("model", [BAYES, BLEND], ids=["bayes", "blend"])
def test_both_obey_the_laws_over_tables(model: Together) -> None:
    for texts in ([[0, 1], [1, 0], [1, 1]], [[0], [0], [1]]):
        laws.check(model, PREFIXES, texts, is_normalized=True)


@pytest.mark.parametrize("kind", [Bayes, Blend])
@pytest.mark.parametrize("weights", [WEIGHTS, (0.4, 0.0, 0.6)])
def test_both_obey_the_laws_over_assumptions(
    in_context: InContext, kind: type[Together], weights: tuple[float, ...]
) -> None:
    prefixes, texts = [[0], [0, 5, 6, 7], [0, 20]], [[3, 4, 5], [9, 9, 2], [10, 11, 12]]
    laws.check(kind(in_context, log(weights)), prefixes, texts, is_normalized=True, tolerance=FLOAT32)


def test_an_assumption_is_mixed_as_if_it_were_read_by_hand(in_context: InContext) -> None:
    prefix_BT, text_BT = pad_left([[0, 5], [0, 6, 7]]), pad_right([[3, 4, 5], [9, 2]])
    joint_KB = log(WEIGHTS)[:, None] + torch.stack(
        [in_context.component(k).score(prefix_BT, text_BT).double().sum(1) for k in range(3)]
    )
    got_B = Bayes(in_context, log(WEIGHTS)).score(prefix_BT, text_BT).double().sum(1)
    torch.testing.assert_close(got_B, torch.logsumexp(joint_KB, 0), atol=FLOAT32, rtol=0)


def test_scores_add_up_to_the_marginal_likelihood() -> None:
    """Texts of several lengths; one that a component finds impossible."""
    possible = probabilities(PARTS[1])
    dead = next(text for text, prob in possible.items() if prob == 0 and len(text) > 1)
    texts = [list(dead), [2], [1, 0, 2], [1, 1]]
    score_BT = BAYES.score(torch.empty(4, 0, dtype=torch.long), pad_right(texts))
    steps = list(BAYES.steps(torch.empty(4, 0, dtype=torch.long), pad_right(texts)))
    for b, text in enumerate(texts):
        each = [part.score(torch.empty(1, 0, dtype=torch.long), torch.tensor([text])).sum() for part in PARTS]
        want = torch.logsumexp(log(WEIGHTS) + torch.stack(each), 0)
        torch.testing.assert_close(score_BT[b].sum(), want, atol=1e-12, rtol=0)
        for t, token in enumerate(text):
            torch.testing.assert_close(score_BT[b, t], steps[t][b, token], atol=1e-12, rtol=0)
        assert not score_BT[b, len(text) :].any()


def test_what_no_component_can_say_stays_impossible() -> None:
    model = Bayes(Separate((PARTS[0], PARTS[1])), log((0.5, 0.5)))
    for ended in ([2, 0], [2, 0, 1]):  # nothing comes after the end, in no component
        score_T = model.score(torch.empty(1, 0, dtype=torch.long), torch.tensor([ended]))[0]
        assert score_T[0].isfinite()
        assert (score_T[1:] == -torch.inf).all()
    laws.check(model, [[2], [0, 2]], [[0, 1], [1, 2]], is_normalized=True)


def test_beliefs_are_the_posterior_given_what_was_read() -> None:
    texts = [[0, 1], [1, 0], [1, 1]]
    state = BAYES.start(torch.empty(3, 0, dtype=torch.long))
    for token_B in torch.tensor(texts).unbind(1):
        state = BAYES.extend(state, token_B)
    each_BK = torch.stack(
        [part.score(torch.empty(3, 0, dtype=torch.long), torch.tensor(texts)).sum(1) for part in PARTS], 1
    )
    want_BK = log_normalize(log(WEIGHTS) + each_BK)
    torch.testing.assert_close(BAYES.posterior(state), want_BK, atol=1e-12, rtol=0)
    for rows in ([2, 0, 2, 1], [1, 2, 0], [2], [1, 1]):
        moved = BAYES.reorder(state, torch.tensor(rows))
        torch.testing.assert_close(BAYES.posterior(moved), want_BK[rows], atol=1e-12, rtol=0)
        after_BV = BAYES.extend(state, torch.tensor([1, 0, 0])).log_weight_BV
        moved = BAYES.extend(moved, torch.tensor([1, 0, 0])[rows])
        torch.testing.assert_close(moved.log_weight_BV, after_BV[rows], atol=1e-12, rtol=0)
    back = BAYES.trim(state, torch.tensor([2, 2, 2]))
    torch.testing.assert_close(BAYES.posterior(back), log(WEIGHTS).expand(3, -1), atol=1e-12, rtol=0)
    joint_BK, log_prob_KBV = list(BAYES.beliefs(torch.empty(3, 0, dtype=torch.long), torch.tensor(texts)))[1]
    first_BK = log(WEIGHTS) + torch.stack([part.log_weight[()][[0, 1, 1]] for part in PARTS], 1)
    torch.testing.assert_close(joint_BK, first_BK, atol=1e-12, rtol=0)
    want_KBV = torch.stack([torch.stack([part.log_weight[(text[0],)] for text in texts]) for part in PARTS])
    assert torch.equal(log_prob_KBV, want_KBV)


class Forbidden(Factor):
    """Fails when it is run."""

    @property
    def vocabulary(self) -> Vocabulary:
        return PARTS[0].vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        raise AssertionError("a component without weight was run")

    def extend(self, state: State, token_B: Tensor) -> State:
        raise AssertionError("a component without weight was run")


@pytest.mark.parametrize("kind", [Bayes, Blend])
def test_components_without_weight_are_not_run_and_change_nothing(kind: type[Together]) -> None:
    some = kind(Separate((PARTS[0], Forbidden(), PARTS[2])), log((0.25, 0.0, 0.75)))
    few = kind(Separate((PARTS[0], PARTS[2])), log((0.25, 0.75)))
    assert probabilities(some) == probabilities(few)
    laws.check(some, PREFIXES, [[0, 1], [1, 0], [1, 1]], is_normalized=True)
    state = some.extend(some.start(torch.tensor([[0], [1]])), torch.tensor([1, 1]))
    shorter = few.extend(few.start(torch.tensor([[0], [1]])), torch.tensor([1, 1]))
    assert torch.equal(some.posterior(state)[:, [0, 2]], few.posterior(shorter))
    assert (some.posterior(state)[:, 1] == -torch.inf).all()


def test_each_row_keeps_its_component() -> None:
    model = PerResponse(ENSEMBLE, torch.tensor([2, 0, 1]))
    prefix_BT, text_BT = pad_left(PREFIXES), torch.tensor([[0, 1], [1, 0], [1, 1]])
    score_BT = model.score(prefix_BT, text_BT)
    for row, k in enumerate((2, 0, 1)):
        alone = model.for_rows([row])
        assert torch.equal(alone.score(torch.tensor([PREFIXES[row]]).long(), text_BT[row : row + 1])[0], score_BT[row])
        want_T = PARTS[k].score(torch.tensor([PREFIXES[row]]).long(), text_BT[row : row + 1])[0]
        assert torch.equal(score_BT[row], want_T)
    some = model.for_rows([2, 0])
    assert torch.equal(some.start(prefix_BT[[2, 0]]).log_weight_BV, model.start(prefix_BT).log_weight_BV[[2, 0]])


def test_rows_without_a_component_are_refused() -> None:
    model = PerResponse(ENSEMBLE, torch.tensor([0, 1]))
    for read in (model.start, lambda prefix_BT: model.score(prefix_BT, prefix_BT)):
        with pytest.raises(InputError, match="one component for each of 3 rows is needed, got 2"):
            read(torch.tensor([[0], [1], [0]]))


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [((0.5, 0.5), "one weight for each of 3 parts"), ((0.5, 0.5, 0.5), "sum to 1"), ((0.0, 0.0, 0.0), "sum to 1")],
)
def test_weights_that_are_none_are_refused(weights: tuple[float, ...], complaint: str) -> None:
    for kind in (Bayes, Blend):
        with pytest.raises(InputError, match=complaint):
            kind(ENSEMBLE, log(weights))
