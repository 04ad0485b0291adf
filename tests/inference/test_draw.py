"""Drawing a token: every truncation against a twin that goes token by token, and the exact inverse of the sums."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from factorlm.algebra import PAD
from factorlm.inference import draw as drawing
from factorlm.inference.draw import Sampling, draw, generator_of, proposal
from factorlm.inference.repetition import losses, runs
from factorlm.text import Vocabulary

FALSE_ALARM = 1e-6
EXACT = 1e-9  # float64


def random_log_probs(seed: int, num_tokens: int, num_impossible: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    log_weight_V = 2 * torch.randn(num_tokens, generator=generator, dtype=torch.float64)
    log_weight_V[torch.randperm(num_tokens, generator=generator)[:num_impossible]] = -torch.inf
    return log_weight_V.log_softmax(0).tolist()


def normalized(log_prob: list[float], kept: set[int]) -> list[float]:
    total = math.log(math.fsum(math.exp(log_prob[v]) for v in kept))
    return [log_prob[v] - total if v in kept else -math.inf for v in range(len(log_prob))]


def smallest_set(log_prob: list[float], cost: list[float], mass: float) -> set[int]:
    kept: set[int] = set()
    for v in sorted((v for v in range(len(log_prob)) if log_prob[v] > -math.inf), key=lambda v: cost[v]):
        if math.fsum(math.exp(log_prob[w]) for w in kept) >= mass:
            break
        kept.add(v)
    return kept


def twin(log_prob: list[float], sampling: Sampling, read: list[int]) -> list[float]:
    """All steps of `proposal` for one row, by their definitions."""
    everything = set(range(len(log_prob)))
    if sampling.repetition_penalty != 1:
        penalized = [lp * sampling.repetition_penalty if v in read else lp for v, lp in enumerate(log_prob)]
        log_prob = normalized(penalized, everything)
    if sampling.dry_multiplier:
        log_prob = normalized([lp - loss(read, v, sampling) for v, lp in enumerate(log_prob)], everything)
    if sampling.temperature == 0:
        return [0.0 if v == max(everything, key=lambda w: log_prob[w]) else -math.inf for v in everything]
    log_prob = normalized([lp / sampling.temperature for lp in log_prob], everything)
    if sampling.top_k:
        ranked = sorted(everything, key=lambda v: -log_prob[v])
        log_prob = normalized(log_prob, set(ranked[: sampling.top_k]))
    if sampling.top_p < 1:
        log_prob = normalized(log_prob, smallest_set(log_prob, [-lp for lp in log_prob], sampling.top_p))
    if sampling.typical_p < 1:
        entropy = -math.fsum(math.exp(lp) * lp for lp in log_prob if lp > -math.inf)
        cost = [abs(-lp - entropy) for lp in log_prob]
        log_prob = normalized(log_prob, smallest_set(log_prob, cost, sampling.typical_p))
    if sampling.min_p > 0:
        least = sampling.min_p * math.exp(max(log_prob))
        log_prob = normalized(log_prob, {v for v in everything if math.exp(log_prob[v]) >= least})
    if sampling.epsilon_cutoff > 0:
        log_prob = normalized(log_prob, at_least(log_prob, sampling.epsilon_cutoff))
    if sampling.eta_cutoff > 0:
        entropy = -math.fsum(math.exp(lp) * lp for lp in log_prob if lp > -math.inf)
        floor = min(sampling.eta_cutoff, math.sqrt(sampling.eta_cutoff) * math.exp(-entropy))
        log_prob = normalized(log_prob, at_least(log_prob, floor))
    return log_prob


def at_least(log_prob: list[float], floor: float) -> set[int]:
    kept = {v for v, lp in enumerate(log_prob) if math.exp(lp) >= floor}
    return kept or {v for v, lp in enumerate(log_prob) if lp == max(log_prob)}


def loss(read: list[int], token: int, sampling: Sampling) -> float:
    """By definition: the longest end of what was read that was followed by the token before."""
    longest = 0
    for n in range(1, len(read)):
        end = read[-n:]
        if any(read[i : i + n] == end and read[i + n] == token for i in range(len(read) - n)):
            longest = n
    if longest < sampling.dry_allowed_length:
        return 0.0
    return sampling.dry_multiplier * sampling.dry_base ** (longest - sampling.dry_allowed_length)


SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 50]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 0.6]),
    typical_p=st.sampled_from([0.1, 0.6, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.7]),
    epsilon_cutoff=st.sampled_from([0.0, 0.02, 0.3]),
    eta_cutoff=st.sampled_from([0.0, 0.01, 0.4]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    dry_allowed_length=st.sampled_from([1, 2, 3]),
)


@settings(max_examples=150, deadline=None)
@given(SETTINGS, st.integers(0, 10_000), st.integers(2, 9), st.data())
def test_truncation_equals_its_twin(sampling: Sampling, seed: int, num_tokens: int, data: st.DataObject) -> None:
    rows = [random_log_probs(seed + b, num_tokens, data.draw(st.integers(0, num_tokens - 1))) for b in range(3)]
    reads = [data.draw(st.lists(st.integers(0, min(num_tokens - 1, 2)), min_size=1, max_size=9)) for _ in rows]
    width = max(map(len, reads))
    read_BT = torch.tensor([[PAD] * (width - len(read)) + read for read in reads])
    got_BV = proposal(torch.tensor(rows, dtype=torch.float64), sampling, read_BT)
    want_BV = torch.tensor([twin(row, sampling, read) for row, read in zip(rows, reads, strict=True)])
    torch.testing.assert_close(got_BV, want_BV.double(), atol=1e-6, rtol=0)
    assert bool(((got_BV == -torch.inf) == (want_BV == -torch.inf)).all())
    torch.testing.assert_close(got_BV.exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=EXACT, rtol=0)


def test_the_default_changes_nothing() -> None:
    log_prob_BV = torch.tensor([random_log_probs(0, 6, 2)], dtype=torch.float64)
    torch.testing.assert_close(proposal(log_prob_BV, Sampling()), log_prob_BV, atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0),
        Sampling(temperature=0.5, top_k=2, top_p=0.5, typical_p=0.5, min_p=0.5, repetition_penalty=1.3),
    ],
)
def test_dead_rows_stay_dead(sampling: Sampling) -> None:
    log_prob_BV = torch.tensor([[-math.inf] * 4, random_log_probs(0, 4)], dtype=torch.float64)
    found_BV = proposal(log_prob_BV, sampling, torch.tensor([[0], [1]]))
    assert bool((found_BV[0] == -torch.inf).all())
    assert not bool(found_BV.isnan().any())
    assert float(found_BV[1].exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize("least", [5e-324, 1e-42, 1e-30])
@pytest.mark.parametrize("name", ["top_p", "typical_p", "temperature"])
def test_numbers_that_single_precision_rounds_to_nothing_leave_one_token(name: str, least: float) -> None:
    log_prob_BV = torch.tensor([random_log_probs(0, 9), [-math.inf] * 9, [0.0] + [-120.0] * 8], dtype=torch.float32)
    found_BV = proposal(log_prob_BV, Sampling.model_validate({name: least})).exp()
    assert (found_BV == 1).sum(1).tolist() == [1, 0, 1]
    assert found_BV.sum(1).tolist() == [1, 0, 1]
    if name != "typical_p":
        assert found_BV[0].argmax() == log_prob_BV[0].argmax()


def test_greedy_takes_the_first_of_equals() -> None:
    log_prob_BV = torch.tensor([[0.1, 0.4, 0.4, 0.1]], dtype=torch.float64).log()
    assert proposal(log_prob_BV, Sampling(temperature=0)).exp().tolist() == [[0, 1, 0, 0]]


def test_a_repetition_penalty_counts_a_token_once_and_skips_padding() -> None:
    log_prob_BV = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    once, twice = (
        proposal(log_prob_BV, Sampling(repetition_penalty=2.0), torch.tensor([read]))
        for read in ([PAD, PAD, 1], [1, 1, 1])
    )
    want_V = torch.tensor([0.5, 0.0625, 0.25], dtype=torch.float64)
    torch.testing.assert_close(once[0].exp(), want_V / want_V.sum(), atol=EXACT, rtol=0)
    assert torch.equal(once, twice)


def test_runs_end_at_breakers() -> None:
    """Letters a b c, a colon and an end token: what stands before a colon does not lengthen a run."""
    a, b, c, colon, end = range(5)
    vocabulary = Vocabulary((b"a", b"b", b"c", b" :", b""), (end,))
    settings = Sampling(dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=2)
    read_BT = torch.tensor([[a, b, c, a, b], [a, colon, c, a, colon], [PAD, b, c, b, c], [colon, b, c, colon, b]])
    with_breakers = losses(read_BT, settings, vocabulary, 5)
    assert with_breakers[:, c].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert with_breakers[:, b].tolist() == [0.0, 0.0, 1.0, 0.0]
    without = losses(read_BT, settings, None, 5)
    assert without[:, c].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert runs([a, b, a, b, a, b]) == {a: 4}
    assert runs([]) == {}


def test_a_loop_is_left_in_the_end() -> None:
    """Each round makes the loss larger by dry_base to its length, so that no loop of any probability lasts."""
    settings = Sampling(dry_multiplier=0.8)
    read = [0, 1, 2] * 5
    loss_V = losses(torch.tensor([read]), settings, None, 4)[0]
    assert loss_V[0] == pytest.approx(0.8 * 1.75 ** (12 - 2))
    assert float(loss_V[1:].abs().max()) == 0


def test_eta_keeps_more_where_the_model_is_unsure() -> None:
    flat, sure = [0.2] * 5, [0.96, 0.01, 0.01, 0.01, 0.01]
    log_prob_BV = torch.tensor([flat, sure], dtype=torch.float64).log()
    kept_BV = proposal(log_prob_BV, Sampling(eta_cutoff=0.05)) > -torch.inf
    assert kept_BV.sum(-1).tolist() == [5, 1]


def quantiles(log_prob: list[float], uniforms: list[float]) -> list[int]:
    log_prob_BV = torch.tensor([log_prob] * len(uniforms), dtype=torch.float64)
    return draw(log_prob_BV, torch.tensor(uniforms, dtype=torch.float64)).tolist()


def test_draw_inverts_the_sums_exactly() -> None:
    """Sums of halves, quarters and eighths are exact, so every boundary can be hit."""
    log_prob = [math.log(p) if p else -math.inf for p in (0, 0.25, 0.125, 0, 0.5, 0.125, 0)]
    last = math.nextafter(1.0, 0.0)
    below = [math.nextafter(edge, 0.0) for edge in (0.25, 0.375, 0.875)]
    assert quantiles(log_prob, [0.0, *below]) == [1, 1, 2, 4]
    assert quantiles(log_prob, [0.25, 0.375, 0.875, last]) == [2, 4, 5, 5]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1, exclude_max=True))
def test_draw_finds_the_token_of_a_quantile(seed: int, num_tokens: int, uniform: float) -> None:
    log_prob = random_log_probs(seed, num_tokens, num_tokens // 2)
    [token] = quantiles(log_prob, [uniform])
    assert log_prob[token] > -math.inf
    before = math.fsum(map(math.exp, log_prob[:token]))
    assert before - EXACT <= uniform < before + math.exp(log_prob[token]) + EXACT


def test_never_a_token_that_is_impossible_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    log_prob_BV = torch.randn(200, 1000, generator=generator).log_softmax(-1)
    log_prob_BV[:, 500:] = -torch.inf
    log_prob_BV = log_prob_BV.log_softmax(-1)
    edge_B = torch.full((200,), math.nextafter(1.0, 0.0), dtype=torch.float64)
    assert int(draw(log_prob_BV, edge_B).max()) == 499


def test_frequencies_are_probabilities(
    chi_square: Callable[[Mapping[object, int], Mapping[object, float]], float],
) -> None:
    """Fixed seed; a right sampler would fail for one seed in a million."""
    log_prob = random_log_probs(5, 8, 2)
    generator = torch.Generator().manual_seed(0)
    uniform_B = torch.rand(50_000, generator=generator, dtype=torch.float64)
    tokens: Tensor = draw(torch.tensor([log_prob] * 50_000, dtype=torch.float64), uniform_B)
    p_value = chi_square(Counter(tokens.tolist()), {v: math.exp(lp) for v, lp in enumerate(log_prob)})
    assert p_value > FALSE_ALARM


def test_randomness_belongs_to_seed_prompt_and_sample() -> None:
    def first(seed: int, prompt_ids: list[int], sample: int) -> float:
        return float(torch.rand((), generator=generator_of(seed, prompt_ids, sample), dtype=torch.float64))

    assert first(0, [1, 2], 0) == first(0, [1, 2], 0)
    others = [first(*args) for args in ((0, [1, 2], 0), (1, [1, 2], 0), (0, [1, 2], 1), (0, [12], 0), (0, [2, 1], 0))]
    assert len(set(others)) == 5
    many = [first(seed, [7], sample) for seed in range(40) for sample in range(50)]
    # The mean of 2000 uniform numbers has a standard error of 0.0065; five of them: false alarm 6e-7.
    assert abs(float(np.mean(many)) - 0.5) < 5 * 0.0065


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
        {"top_q": 0.5},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("step", [0.0, 0.25, 2.0])
def test_nucleus_without_sorting_is_that_with_sorting(
    mass: float, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, also with many equal probabilities, as coarse number formats make them, and impossible tokens."""
    monkeypatch.setattr(drawing, "MOST_SORTED", 16)
    generator = torch.Generator().manual_seed(0)
    logit_BV = torch.randn(64, 80, generator=generator) * torch.linspace(0.1, 8, 64)[:, None]
    if step:
        logit_BV = (logit_BV / step).round() * step
    logit_BV[torch.rand(64, 80, generator=generator) < 0.2] = -torch.inf
    log_prob_BV = logit_BV.log_softmax(-1)
    slow_BV = drawing._keep_until(log_prob_BV, -log_prob_BV, mass)
    assert torch.equal(drawing._keep_most_probable(log_prob_BV, mass), slow_BV)
    assert len(set((slow_BV > -torch.inf).sum(1).tolist())) > 2
