"""Speculation: the same texts as plain sampling with the same seed, in fewer passes; law checked by enumeration."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from factorlm.algebra import Factor, LocalProduct, Mixture, leaves, local_product
from factorlm.errors import InputError
from factorlm.factors.contrast import contrast
from factorlm.factors.head import Head
from factorlm.factors.prompt import UnboundPrompt
from factorlm.inference.drafts import Draft, ModelDraft, PromptLookup, cheap_part
from factorlm.inference.draw import Sampling, generator_of, proposal
from factorlm.inference.local import Row, sample_local
from factorlm.inference.speculation import Tally, corrected, sample_speculative
from factorlm.models import CausalLM
from factorlm.models.table import Table, random_table
from factorlm.text import TextStream

from ..conftest import CONTEXT

PLAIN = Sampling()
ChiSquare = Callable[[Mapping[object, int], Mapping[object, float]], float]
MakeHead = Callable[..., Head]


class Oracle:
    """Guesses from a list of texts that are known to come, wrong at every third place."""

    def __init__(self, texts: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], wrong: int, size: int) -> None:
        self.known = [(len(p), [*p, *t]) for p, t in zip(prompts, texts, strict=True)]
        self.wrong, self.size = wrong, size

    def guess(self, read: Sequence[int]) -> list[int]:
        for _, text in self.known:
            if text[: len(read)] == list(read):
                guess = text[len(read) : len(read) + self.size]
                return [t if (len(read) + i) % self.wrong else 0 for i, t in enumerate(guess)]
        return []


class Fixed:
    """Always guesses the same."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)

    def guess(self, read: Sequence[int]) -> list[int]:
        return self.tokens


def table(seed: int) -> Table:
    return random_table("ab", 4, torch.Generator().manual_seed(seed))


def rows_of(prompts: list[list[int]], seed: int = 0, stops: tuple[str, ...] = ()) -> list[Row]:
    return [Row(list(p), generator_of(seed, p, n), TextStream(stops)) for n, p in enumerate(prompts)]


COMPOSITIONS: dict[str, Factor] = {
    "a table": table(0),
    "a product": table(1) * table(2) ** 1.5 / table(3),
    "a mixture": Mixture((table(6), table(7)), (0.3, 0.7)),
}
DRAFTS: dict[str, Draft] = {
    "nothing": Fixed(),
    "always a": Fixed(0, 0, 0),
    "always the end": Fixed(2),
    "lookup": PromptLookup(longest=2, num_tokens=3),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_texts_are_those_of_plain_sampling(name: str, draft: str, chi_square: ChiSquare) -> None:
    """Token by token under fixed randomness, hence in law; the law is checked, too (one false alarm in a million)."""
    plain, quick = rows_of([[]] * 2000), rows_of([[]] * 2000)
    list(sample_local(COMPOSITIONS[name], plain, max_tokens=10, sampling=PLAIN))
    events = list(sample_speculative(COMPOSITIONS[name], quick, DRAFTS[draft], max_tokens=10, sampling=PLAIN))
    for a, b in zip(plain, quick, strict=True):
        assert (a.token_ids, a.stream.text, a.finish_reason) == (b.token_ids, b.stream.text, b.finish_reason)
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-9)
    assert len(events) == sum(len(row.token_ids) for row in plain)
    count = Counter(tuple(row.token_ids) for row in quick)
    assert chi_square(count, local_product(COMPOSITIONS[name], 4)) > 1e-6


@pytest.mark.parametrize(
    "sampling", [PLAIN, Sampling(temperature=0), Sampling(top_p=0.8, repetition_penalty=1.3, stop=("e",))]
)
@pytest.mark.parametrize("wrong", [2, 3, 100])
def test_a_language_model_writes_the_same(
    tiny_lm: CausalLM, make_head: MakeHead, sampling: Sampling, wrong: int
) -> None:
    """Rows that accept different numbers of guesses, finish at different times, and share caches."""
    calm = UnboundPrompt("calm", None, "be good").bind(tiny_lm)
    factor = tiny_lm * make_head(3) ** 1.5 * calm**0.5
    prompts = [[0], [0, 5, 6, 7], [0, 30], [0, *range(4, 24)]]
    plain = rows_of(prompts, stops=sampling.stop)
    list(sample_local(factor, plain, max_tokens=16, sampling=sampling))
    quick, tally = rows_of(prompts, stops=sampling.stop), Tally()
    draft = Oracle([row.token_ids for row in plain], prompts, wrong, 5)
    list(sample_speculative(factor, quick, draft, max_tokens=16, sampling=sampling, tally=tally))
    for a, b in zip(plain, quick, strict=True):
        assert (a.token_ids, a.finish_reason, a.stream.text) == (b.token_ids, b.finish_reason, b.stream.text)
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-3)  # float32, several tokens at once
    longest = max(len(row.token_ids) for row in plain)
    assert tally.num_drawn == sum(len(row.token_ids) for row in plain)
    if wrong == 100:
        assert tally.acceptance == 1.0
        assert tally.num_passes <= -(-longest // 5)
    else:
        assert 0 < tally.acceptance < 1
        assert tally.num_passes < longest


def test_a_guess_is_right_as_often_as_it_is_probable() -> None:
    """Acceptance of a sure draft is the probability of its token, within 5 standard errors."""
    language = random_table("ab", 3, torch.Generator().manual_seed(4))
    rows, tally = rows_of([[]] * 4000), Tally()
    list(sample_speculative(language, rows, Fixed(0), max_tokens=10, sampling=PLAIN, tally=tally))
    seconds = [row.token_ids[1] == 0 for row in rows if row.token_ids[0] != 2]
    assert tally.num_guessed >= len(seconds)
    prob = local_product(language, 3)
    going = {t: p for t, p in prob.items() if t[0] != 2}
    want = sum(p for t, p in going.items() if t[1] == 0) / sum(going.values())
    error = (want * (1 - want) / len(seconds)) ** 0.5
    assert abs(sum(seconds) / len(seconds) - want) <= 5 * error


def test_lookup_finds_the_latest_place_of_the_longest_end() -> None:
    draft = PromptLookup(longest=3, num_tokens=2)
    assert draft.guess([1, 2, 3, 9, 1, 2, 3]) == [9, 1]
    assert draft.guess([7, 3, 4, 5, 3, 6, 3]) == [6, 3]
    assert draft.guess([1, 2, 3, 8, 5, 3]) == [8, 5]
    assert draft.guess([1, 2, 3]) == []
    assert draft.guess([4]) == []
    assert draft.guess([]) == []
    assert draft.guess([1, 1, 1]) == [1]


def test_the_limit_is_kept() -> None:
    for max_tokens in range(5):
        rows = rows_of([[]] * 50)
        list(sample_speculative(table(0), rows, Fixed(0, 1, 0, 1, 0), max_tokens=max_tokens, sampling=PLAIN))
        assert all(len(row.token_ids) <= max_tokens for row in rows)


def test_a_neighbours_guesses_take_no_room(tiny_lm: CausalLM) -> None:
    """A row at the end of the context is written with guesses beside it as it is without."""
    prompts = [[0, *([5] * (CONTEXT - 11))], [0, 5, 5]]
    plain, quick = rows_of(prompts), rows_of(prompts)
    list(sample_local(tiny_lm, plain, max_tokens=10, sampling=PLAIN))
    list(sample_speculative(tiny_lm, quick, PromptLookup(num_tokens=9), max_tokens=10, sampling=PLAIN))
    assert [row.token_ids for row in plain] == [row.token_ids for row in quick]


def test_caches_hold_no_columns_of_padding_alone(tiny_lm: CausalLM) -> None:
    state = tiny_lm.start(torch.tensor([[0, 5, 6, 7], [0, 5, 6, 7]]))
    for cut in ([2, 0], [0, 2], [1, 0], [0, 1]):
        _, state = tiny_lm.extend_through(state, torch.tensor([[8, 9], [8, 9]]))
        state = tiny_lm.trim(state, torch.tensor(cut))
        assert bool(state.memory.is_token_BT.any(0).all())
    assert state.memory.hidden.length == int(state.memory.num_tokens_B.max())


# Guesses that a model draws


def law(model: Factor, sampling: Sampling, text: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    """Probability of every text that token by token sampling can write."""
    if text and text[-1] in model.vocabulary.end_ids:
        return {text: 1.0}
    state = model.start(torch.tensor([text], dtype=torch.long))
    read_BT = torch.tensor([text], dtype=torch.long) if text else None
    prob_V = proposal(state.log_weight_BV, sampling, read_BT, model.vocabulary)[0].exp().tolist()
    return {
        whole: prob * p
        for token, p in enumerate(prob_V)
        if p > 0
        for whole, prob in law(model, sampling, (*text, token)).items()
    }


@pytest.mark.parametrize(
    "sampling", [PLAIN, Sampling(temperature=0.7, top_k=2), Sampling(repetition_penalty=1.5)]
)  # fmt: skip
@pytest.mark.parametrize("num_tokens", [1, 3, 6])
def test_drawn_guesses_leave_the_law_alone(sampling: Sampling, num_tokens: int, chi_square: ChiSquare) -> None:
    """One false alarm in a million each."""
    target, draft = table(1) * table(2) ** 1.5, ModelDraft(table(1), num_tokens)
    rows, tally = rows_of([[]] * 4000), Tally()
    list(sample_speculative(target, rows, draft, max_tokens=10, sampling=sampling, tally=tally))
    count = Counter(tuple(row.token_ids) for row in rows)
    assert 0 < tally.num_right < tally.num_guessed
    assert chi_square(count, law(LocalProduct(target), sampling)) > 1e-6


def test_a_drawn_guess_is_kept_as_often_as_the_laws_overlap() -> None:
    target_V, draft_V = torch.tensor([0.5, 0.2, 0.3, 0.0]).log(), torch.tensor([0.1, 0.6, 0.2, 0.1]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(draft_V.exp(), 40_000, replacement=True, generator=generator).tolist()
    after = [corrected(token, target_V, draft_V, generator) for token in drawn]
    kept = sum(a == b for a, b in zip(drawn, after, strict=True)) / len(drawn)
    overlap = float(torch.minimum(target_V.exp(), draft_V.exp()).sum())
    assert kept == pytest.approx(overlap, abs=5 * 0.5 / len(drawn) ** 0.5)
    for token, prob in enumerate(target_V.exp().tolist()):
        assert after.count(token) / len(after) == pytest.approx(prob, abs=5 * 0.5 / len(drawn) ** 0.5)


def test_a_perfect_draft_is_always_right_and_takes_few_passes() -> None:
    rows, tally = rows_of([[]] * 20), Tally()
    list(sample_speculative(table(0), rows, ModelDraft(table(0), 4), max_tokens=10, sampling=PLAIN, tally=tally))
    assert tally.acceptance == 1.0
    assert tally.num_passes < max(len(row.token_ids) for row in rows)


def test_a_draft_for_a_language_model_follows_rows_of_all_lengths(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """Greedy, so that the texts must be those of plain sampling, and the draft is cut back and read on all the time."""
    factor = tiny_lm * make_head(3) ** 1.5 * UnboundPrompt("calm", None, "be good").bind(tiny_lm) ** 0.5
    prompts = [[0], [0, 5, 6, 7], [0, 30], [0, *range(4, 24)]]
    plain, quick, greedy = rows_of(prompts), rows_of(prompts), Sampling(temperature=0)
    list(sample_local(factor, plain, max_tokens=16, sampling=greedy))
    tally, draft = Tally(), ModelDraft(cheap_part(factor))
    list(sample_speculative(factor, quick, draft, max_tokens=16, sampling=greedy, tally=tally))
    assert [row.token_ids for row in quick] == [row.token_ids for row in plain]
    assert 0 < tally.acceptance < 1
    assert tally.num_passes < max(len(row.token_ids) for row in plain)


def test_the_same_seed_draws_the_same(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    factor = tiny_lm * UnboundPrompt("calm", None, "be good").bind(tiny_lm) ** 0.5
    runs = [rows_of([[0], [0, 5, 6]]) for _ in range(2)]
    for rows in runs:
        list(sample_speculative(factor, rows, ModelDraft(tiny_lm), max_tokens=12, sampling=PLAIN))
    assert [row.token_ids for row in runs[0]] == [row.token_ids for row in runs[1]]


def test_the_cheap_part_keeps_what_costs_no_pass(tiny_lm: CausalLM, fresh_lm: CausalLM, make_head: MakeHead) -> None:
    head, calm = make_head(2), UnboundPrompt("calm", None, "be good").bind(tiny_lm)
    kept = cheap_part(LocalProduct(tiny_lm * head**2.0 * calm**0.5 * contrast("c", fresh_lm, tiny_lm) ** 0.3))
    assert {id(leaf) for leaf in leaves(kept)} == {id(tiny_lm), id(head)}
    with pytest.raises(InputError, match="leaves out"):
        cheap_part(tiny_lm * head)
    with pytest.raises(InputError, match="needs a base"):
        cheap_part(tiny_lm**2.0 * calm)
    with pytest.raises(InputError, match="at least 1 token"):
        ModelDraft(tiny_lm, 0)
