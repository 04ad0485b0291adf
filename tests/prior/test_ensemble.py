"""Rows of a batch, each with its own model, against the models one by one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State, laws, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.table import random_table
from factorlm.prior.ensemble import Component, Ensemble, Separate
from factorlm.prior.incontext import InContext
from factorlm.text import Vocabulary

# float32 sums in another order (batched, with a cache, padded) differ by about 1e-6 of logits of size 10.
FLOAT32 = 1e-4
EXACT = 1e-12
# A prefix that is only a start token, others of several lengths, and two rows that differ in their model alone.
PREFIXES = [[0], [0, 1], [0, 0, 1], [0], [0, 1]]
COMPONENTS = [2, 0, 1, 1, 2]
TEXTS = [[1, 0, 1], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 0, 1]]


@pytest.fixture(params=["tables", "in context"])
def ensemble(request: pytest.FixtureRequest, in_context: InContext) -> Ensemble:
    if request.param == "in context":
        return in_context
    generator = torch.Generator().manual_seed(0)
    return Separate(tuple(random_table("ab", 8, generator, zeros=zeros) for zeros in (0.0, 0.3, 0.0)))


def tolerance(ensemble: Ensemble) -> float:
    return FLOAT32 if isinstance(ensemble, InContext) else EXACT


def assert_near(got: Tensor, want: Tensor, ensemble: Ensemble) -> None:
    torch.testing.assert_close(got, want, atol=tolerance(ensemble), rtol=0)


class ByLastToken(Factor):
    """Rows with different models as one factor: the last token of a prefix says which."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble

    @property
    def vocabulary(self) -> Vocabulary:
        return self.ensemble.vocabulary

    def of(self, prefix_BT: Tensor) -> Tensor:
        return prefix_BT[:, -1] % self.ensemble.num_components

    def start(self, prefix_BT: Tensor) -> State:
        return self.ensemble.start(prefix_BT, self.of(prefix_BT))

    def extend(self, state: State, token_B: Tensor) -> State:
        return self.ensemble.extend(state, token_B)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        return self.ensemble.extend_through(state, token_BT)

    def reorder(self, state: State, row_R: Tensor) -> State:
        return self.ensemble.reorder(state, row_R)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        return self.ensemble.trim(state, num_tokens_B)

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        return self.ensemble.steps(prefix_BT, text_BT, self.of(prefix_BT))

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        return self.ensemble.score(prefix_BT, text_BT, self.of(prefix_BT))


def test_rows_with_different_models_obey_the_laws(ensemble: Ensemble) -> None:
    prefixes = [[0], [0, 1], [1, 0, 1], [0, 0], [1]]
    laws.check(ByLastToken(ensemble), prefixes, TEXTS, is_normalized=True, tolerance=tolerance(ensemble))


def test_three_models_in_one_batch_obey_the_laws(in_context: InContext) -> None:
    prefixes = [[0], [0, 4], [0, 9, 8], [0, 5], [0, 5, 5, 3]]
    texts = [[3, 4, 5], [9, 9, 2], [10, 11, 12], [30, 1, 8], [6, 6, 6]]
    assert set((pad_left(prefixes)[:, -1] % 3).tolist()) == {0, 1, 2}
    laws.check(ByLastToken(in_context), prefixes, texts, is_normalized=True, tolerance=FLOAT32)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_component_obeys_the_laws(ensemble: Ensemble, index: int) -> None:
    component = ensemble.component(index)
    laws.check(component, PREFIXES, TEXTS, is_normalized=True, tolerance=tolerance(ensemble))
    assert component.vocabulary == ensemble.vocabulary
    assert component.device == ensemble.device


def alone(ensemble: Ensemble, row: int, prefix: list[int], read: list[int]) -> Tensor:
    """Next tokens of a row that is a batch of its own."""
    component = ensemble.component(COMPONENTS[row])
    state = component.start(torch.tensor([prefix]))
    for token in read:
        state = component.extend(state, torch.tensor([token]))
    return state.log_weight_BV[0]


def test_each_row_is_read_by_its_own_model(ensemble: Ensemble) -> None:
    state = ensemble.start(pad_left(PREFIXES), torch.tensor(COMPONENTS))
    assert_near(state.log_weight_BV, torch.stack([alone(ensemble, b, p, []) for b, p in enumerate(PREFIXES)]), ensemble)
    for t, token_B in enumerate(torch.tensor(TEXTS).unbind(1), 1):
        state = ensemble.extend(state, token_B)
        want_BV = torch.stack([alone(ensemble, b, p, TEXTS[b][:t]) for b, p in enumerate(PREFIXES)])
        assert_near(state.log_weight_BV, want_BV, ensemble)


@pytest.mark.parametrize("rows", [[4, 3, 2, 1, 0], [2, 2, 0, 2], [1], [3, 1, 4], [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]])
def test_rows_may_be_moved_repeated_and_left_out(ensemble: Ensemble, rows: list[int]) -> None:
    state = ensemble.start(pad_left(PREFIXES), torch.tensor(COMPONENTS))
    state = ensemble.extend(state, torch.tensor([text[0] for text in TEXTS]))
    moved = ensemble.reorder(state, torch.tensor(rows))
    moved = ensemble.reorder(moved, torch.arange(len(rows)).roll(1))
    rows = [*rows[-1:], *rows[:-1]]
    for t in (1, 2):
        want_BV = torch.stack([alone(ensemble, b, PREFIXES[b], TEXTS[b][:t]) for b in rows])
        assert_near(moved.log_weight_BV, want_BV, ensemble)
        moved = ensemble.extend(moved, torch.tensor([TEXTS[b][t] for b in rows]))
    through_BTV, _ = ensemble.extend_through(state, torch.tensor([text[1:] for text in TEXTS]))
    assert_near(moved.log_weight_BV, through_BTV[rows, -1], ensemble)


def test_rows_are_trimmed_each_by_its_own_number(ensemble: Ensemble) -> None:
    state = ensemble.start(pad_left(PREFIXES), torch.tensor(COMPONENTS))
    for token_B in torch.tensor(TEXTS).unbind(1):
        state = ensemble.extend(state, token_B)
    rows, cuts = [3, 0, 0, 1, 4], [1, 3, 0, 2, 2]
    cut = ensemble.trim(ensemble.reorder(state, torch.tensor(rows)), torch.tensor(cuts))
    kept = [TEXTS[b][: 3 - n] for b, n in zip(rows, cuts, strict=True)]
    want_BV = torch.stack([alone(ensemble, b, PREFIXES[b], text) for b, text in zip(rows, kept, strict=True)])
    assert_near(cut.log_weight_BV, want_BV, ensemble)
    cut = ensemble.extend(cut, torch.tensor([0, 1, 1, 0, 1]))
    new = zip(rows, kept, [0, 1, 1, 0, 1], strict=True)
    assert_near(
        cut.log_weight_BV, torch.stack([alone(ensemble, b, PREFIXES[b], [*text, t]) for b, text, t in new]), ensemble
    )


def test_whole_texts_of_several_lengths_are_scored_row_by_row(ensemble: Ensemble) -> None:
    texts = [[1, 0, 1], [0], [], [1, 1], [0, 0, 1]]
    score_BT = ensemble.score(pad_left(PREFIXES), pad_right(texts), torch.tensor(COMPONENTS))
    steps = list(ensemble.steps(pad_left(PREFIXES), pad_right(texts), torch.tensor(COMPONENTS)))
    for b, text in enumerate(texts):
        for t in range(3):
            want = alone(ensemble, b, PREFIXES[b], text[:t])[text[t]] if t < len(text) else torch.tensor(0.0)
            assert_near(score_BT[b, t], want.to(score_BT), ensemble)
            if t < len(text):
                assert_near(steps[t][b, text[t]], want.to(steps[t]), ensemble)


def test_nothing_to_score_is_no_mistake(ensemble: Ensemble) -> None:
    nothing_BT = torch.empty(5, 0, dtype=torch.long)
    assert ensemble.score(pad_left(PREFIXES), nothing_BT, torch.tensor(COMPONENTS)).shape == (5, 0)
    assert list(ensemble.steps(pad_left(PREFIXES), nothing_BT, torch.tensor(COMPONENTS))) == []


def test_a_number_of_a_component_that_is_not_there_is_refused(ensemble: Ensemble) -> None:
    for index in (-1, 3):
        with pytest.raises(InputError, match=f"numbered from 0 to 2, got {index}"):
            ensemble.component(index)


def test_models_with_other_tokens_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="over one vocabulary"):
        _ = Separate((random_table("ab", 3, generator), random_table("abc", 3, generator))).vocabulary


def by_transformers(lm: CausalLM, assumption: Tensor, rest: list[int]) -> Tensor:
    """The twin: transformers on the start token, the assumption and the rest, without cache or mask."""
    with torch.no_grad():
        embedded_TD = lm.model.get_input_embeddings()(torch.tensor([0, *rest]))
        if not assumption.is_floating_point():
            assumption = lm.model.get_input_embeddings()(assumption)
        read_BTD = torch.cat([embedded_TD[:1], assumption, embedded_TD[1:]])[None]
        return lm.model(inputs_embeds=read_BTD).logits[0, -1].log_softmax(-1)


def test_an_assumption_stands_behind_the_start_token(tiny_lm: CausalLM, in_context: InContext) -> None:
    prefixes = [[0], [0, 5, 6, 7], [0, 9], [0], [0, 5, 6, 7]]
    state = in_context.start(pad_left(prefixes), torch.tensor(COMPONENTS))
    state = in_context.extend(state, torch.tensor([3, 4, 5, 6, 7]))
    rows = zip(prefixes, COMPONENTS, (3, 4, 5, 6, 7), strict=True)
    want = [by_transformers(tiny_lm, in_context.assumptions[k], [*p[1:], t]) for p, k, t in rows]
    torch.testing.assert_close(state.log_weight_BV, torch.stack(want), atol=FLOAT32, rtol=0)


def test_a_prefix_without_the_start_token_is_given_one(tiny_lm: CausalLM, in_context: InContext) -> None:
    with_start, without = (in_context.start(torch.tensor([row]), torch.tensor([1])) for row in ([0, 5, 6], [5, 6]))
    assert torch.equal(with_start.log_weight_BV, without.log_weight_BV)
    nothing_BT = torch.tensor([[PAD], [PAD]])
    bare = in_context.start(nothing_BT, torch.tensor([0, 2]))
    want_BV = torch.stack([by_transformers(tiny_lm, in_context.assumptions[k], []) for k in (0, 2)])
    torch.testing.assert_close(bare.log_weight_BV, want_BV, atol=FLOAT32, rtol=0)


def test_an_assumption_is_read_once(fresh_lm: CausalLM) -> None:
    ensemble = InContext(fresh_lm, [torch.tensor([7, 30, 12]), torch.tensor([9])])
    state = ensemble.start(pad_left([[0, 5], [0, 6], [0, 7]]), torch.tensor([0, 1, 1]))
    assert fresh_lm.num_tokens_read == (1 + 3) + (1 + 1) + 3
    ensemble.extend(ensemble.reorder(state, torch.tensor([2, 0])), torch.tensor([3, 3]))
    assert fresh_lm.num_tokens_read == 9 + 2


def test_one_component_alone_needs_no_company(tiny_lm: CausalLM) -> None:
    ensemble = InContext(tiny_lm, [torch.tensor([7, 30, 12])])
    assert isinstance(ensemble.component(0), Component)
    got_BT = ensemble.score(torch.tensor([[0]]), torch.tensor([[5, 6, 7]]), torch.tensor([0]))
    torch.testing.assert_close(
        got_BT, tiny_lm.score(torch.tensor([[0, 7, 30, 12]]), torch.tensor([[5, 6, 7]])), atol=FLOAT32, rtol=0
    )
