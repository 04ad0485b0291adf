"""Evidence, filters, tilts and draws, against arithmetic written out."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.prior.beliefs import divergence, draw_components, num_effective, occam_window, posterior, tilted

WEIGHTS = (0.1, 0.4, 0.3, 0.2)
INF = math.inf


def log(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def numbers(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_weights(log_prob_K: Tensor, want: list[float], tolerance: float = 1e-14) -> None:
    assert log_prob_K.dtype == torch.float64
    torch.testing.assert_close(log_prob_K.exp(), torch.tensor(want, dtype=torch.float64), atol=tolerance, rtol=0)


@pytest.mark.parametrize("beta", [1.0, 0.25, 3.0])
def test_evidence_counts_by_bayes_rule(beta: float) -> None:
    log_lik = (-3.0, -7.0, -2.5, -40.0)
    raw = [w * math.exp(beta * found) for w, found in zip(WEIGHTS, log_lik, strict=True)]
    assert_weights(posterior(log(WEIGHTS), numbers(log_lik), beta), [w / sum(raw) for w in raw])


def test_evidence_in_pieces_is_evidence_at_once() -> None:
    first, second = numbers((-3.0, -7.0, -2.5, -4.0)), numbers((-1.0, -2.0, -5.0, -INF))
    at_once = posterior(log(WEIGHTS), first + second)
    torch.testing.assert_close(posterior(posterior(log(WEIGHTS), first), second), at_once, atol=1e-14, rtol=0)
    half = posterior(posterior(log(WEIGHTS), first, 0.5), first, 0.5)
    torch.testing.assert_close(half, posterior(log(WEIGHTS), first), atol=1e-14, rtol=0)


def test_very_unlikely_evidence_still_tells_components_apart() -> None:
    got_K = posterior(log(WEIGHTS), numbers((-1e5, -1e5 - 1, -2e5, -1e5)))
    raw = [0.1, 0.4 * math.exp(-1), 0.0, 0.2]
    assert_weights(got_K, [w / sum(raw) for w in raw], tolerance=1e-10)  # float64 has steps of 1.5e-11 at 1e5


def test_what_is_impossible_gets_no_weight_and_never_comes_back() -> None:
    got_K = posterior(log((0.5, 0.0, 0.5, 0.0)), numbers((-1.0, 0.0, -INF, -INF)), 0.5)
    assert got_K.tolist() == [0.0, -INF, -INF, -INF]
    assert occam_window(log((0.5, 0.0, 0.5, 0.0)), numbers((-1.0, 0.0, -INF, -INF))).tolist() == [0.0, *[-INF] * 3]
    assert_weights(tilted(log((0.5, 0.0, 0.5)), numbers((0.0, INF, 0.0))), [0.5, 0.0, 0.5])


def test_a_filter_changes_the_support_and_keeps_proportions() -> None:
    edge = math.log(1000)
    log_lik_K = numbers((-5.0, -5.0 - edge + 1e-9, -5.0 - edge - 1e-9, -6.0))
    assert_weights(occam_window(log(WEIGHTS), log_lik_K, 1e-3), [0.1 / 0.7, 0.4 / 0.7, 0.0, 0.2 / 0.7])
    assert_weights(occam_window(log(WEIGHTS), log_lik_K, 0.5), [1.0, 0.0, 0.0, 0.0])
    assert_weights(occam_window(log(WEIGHTS), log_lik_K, 1e-300), list(WEIGHTS))


def test_a_component_without_weight_does_not_set_the_standard() -> None:
    log_lik_K = numbers((0.0, -20.0, -21.0, -40.0))
    assert_weights(occam_window(log((0.0, 0.5, 0.25, 0.25)), log_lik_K), [0.0, 2 / 3, 1 / 3, 0.0])


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_a_tilt_is_mu_times_exp_of_reward(temperature: float) -> None:
    rewards = (1.0, -2.0, 0.5, 0.0)
    raw = [w * math.exp(r / temperature) for w, r in zip(WEIGHTS, rewards, strict=True)]
    assert_weights(tilted(log(WEIGHTS), numbers(rewards), temperature), [w / sum(raw) for w in raw])


def test_no_other_weights_serve_the_reward_better() -> None:
    """max_nu E_nu[R] - T KL(nu || mu) against ten thousand others, near and far."""
    reward_K, temperature = numbers((1.0, -2.0, 0.5, 0.0)), 0.7
    best_K = tilted(log(WEIGHTS), reward_K, temperature)
    generator = torch.Generator().manual_seed(0)
    spread_N1 = torch.logspace(-3, 0.5, 10_000, dtype=torch.float64)[:, None]
    noise_NK = torch.randn(10_000, 4, generator=generator, dtype=torch.float64)
    nu_NK = (best_K + spread_N1 * noise_NK).log_softmax(1)

    def value(log_nu: Tensor) -> Tensor:
        return (log_nu.exp() * (reward_K - temperature * (log_nu - log(WEIGHTS)))).sum(-1)

    assert float(value(best_K)) >= float(value(nu_NK).max())
    free_energy = temperature * math.log(
        math.fsum(w * math.exp(r / temperature) for w, r in zip(WEIGHTS, reward_K.tolist(), strict=True))
    )
    assert float(value(best_K)) == pytest.approx(free_energy, abs=1e-14)


def test_divergence_and_effective_number_are_what_they_say() -> None:
    nu, mu = (0.5, 0.0, 0.2, 0.3), WEIGHTS
    want = math.fsum(p * math.log(p / q) for p, q in zip(nu, mu, strict=True) if p > 0)
    assert divergence(log(nu), log(mu)) == pytest.approx(want, abs=1e-15)
    assert divergence(log(mu), log(nu)) == INF
    assert divergence(log(mu), log(mu)) == 0
    assert num_effective(log((0.25, 0.25, 0.25, 0.25, 0.0))) == pytest.approx(4, abs=1e-14)
    assert num_effective(log((1.0, 0.0))) == 1
    assert num_effective(log(nu)) == pytest.approx(math.exp(-sum(p * math.log(p) for p in nu if p)), abs=1e-14)


def test_every_component_is_drawn_before_any_comes_again() -> None:
    for seed in range(50):
        drawn = draw_components(log((0.0, 0.7, 0.2, 0.1)), 8, torch.Generator().manual_seed(seed)).tolist()
        assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [1, 2, 3]
        assert len(set(drawn[6:])) == 2


def test_draws_follow_the_weights(chi_square: Callable[..., float]) -> None:
    """Without repeats: the first of 4,000 draws, and the order of the first three; false alarms under 1e-6 each."""
    generator = torch.Generator().manual_seed(1)
    drawn = [tuple(draw_components(log(WEIGHTS), 3, generator).tolist()) for _ in range(4000)]
    prob: dict[object, float] = {}
    for a, b, c in itertools.permutations(range(4), 3):
        left = 1 - WEIGHTS[a]
        prob[a, b, c] = WEIGHTS[a] * WEIGHTS[b] / left * WEIGHTS[c] / (left - WEIGHTS[b])
    assert chi_square(counts(drawn), prob) > 1e-6
    assert chi_square(counts([first for first, *_ in drawn]), dict(enumerate(WEIGHTS))) > 1e-6
    assert chi_square(counts([second for _, second, _ in drawn]), dict(enumerate(WEIGHTS))) < 1e-6  # it could fail


def counts(drawn: list[object]) -> dict[object, int]:
    return {key: drawn.count(key) for key in set(drawn)}


def test_draws_with_repeats_are_independent(chi_square: Callable[..., float]) -> None:
    """Pairs of neighbours among 8,000; a false alarm in a million."""
    drawn = draw_components(log(WEIGHTS), 8000, torch.Generator().manual_seed(2), repeat=True).tolist()
    pairs: list[object] = list(zip(drawn[::2], drawn[1::2], strict=True))
    prob: dict[object, float] = {(a, b): WEIGHTS[a] * WEIGHTS[b] for a, b in itertools.product(range(4), repeat=2)}
    assert chi_square(counts(pairs), prob) > 1e-6


@pytest.mark.parametrize("repeat", [False, True])
def test_no_responses_need_no_components(repeat: bool) -> None:
    drawn = draw_components(log(WEIGHTS), 0, torch.Generator().manual_seed(0), repeat=repeat)
    assert drawn.shape == (0,)
    assert drawn.dtype == torch.long


LIKELY = numbers((-1.0, -2.0, -3.0, -4.0))
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "beta of zero": (lambda: posterior(log(WEIGHTS), LIKELY, 0.0), "beta is a positive number, got 0"),
    "endless beta": (lambda: posterior(log(WEIGHTS), LIKELY, INF), "beta is a positive number, got inf"),
    "beta that is none": (lambda: posterior(log(WEIGHTS), LIKELY, math.nan), "beta is a positive number, got nan"),
    "impossible evidence": (lambda: posterior(log(WEIGHTS), numbers((-INF,) * 4)), "no component that is left"),
    "evidence against the rest": (
        lambda: posterior(log((0.0, 1.0, 0.0, 0.0)), numbers((-1.0, -INF, -1.0, -1.0))),
        "begin again from the prior",
    ),
    "filter by the impossible": (lambda: occam_window(log(WEIGHTS), numbers((-INF,) * 4)), "no component that is left"),
    "epsilon of one": (lambda: occam_window(log(WEIGHTS), LIKELY, 1.0), "epsilon lies between 0 and 1, got 1"),
    "epsilon of zero": (lambda: occam_window(log(WEIGHTS), LIKELY, 0.0), "epsilon lies between 0 and 1, got 0"),
    "temperature of zero": (lambda: tilted(log(WEIGHTS), LIKELY, 0.0), "a temperature is a positive number, got 0"),
    "endless temperature": (lambda: tilted(log(WEIGHTS), LIKELY, INF), "a temperature is a positive number, got inf"),
    "endless reward": (lambda: tilted(log(WEIGHTS), numbers((0, INF, 0, 0))), "a finite reward for each component"),
    "fewer than no draws": (
        lambda: draw_components(log(WEIGHTS), -1, torch.Generator()),
        "a number of responses is at least 0, got -1",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name: str) -> None:
    mistake, message = MISTAKES[name]
    with pytest.raises(InputError, match=message):
        mistake()
