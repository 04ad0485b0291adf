"""Particles: weights, log Z and laws against enumeration of every text of tiny languages."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch

from factorlm.algebra import (
    Factor,
    LocalProduct,
    Named,
    global_product,
    local_product,
    log_weights_of_texts,
    total_variation,
)
from factorlm.algebra.resampling import SCHEMES, effective_size
from factorlm.errors import DeadEndError, InputError, UnknownNameError
from factorlm.factors.head import Head
from factorlm.factors.headed import HeadedProduct, fuse_product
from factorlm.factors.sequence import FunctionFactor, LengthFactor, pattern_factor
from factorlm.inference.crowd import chain
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.population import Population, relative_variance
from factorlm.models import CausalLM
from factorlm.models.table import Table, random_table
from factorlm.text import letters

PLAIN = Sampling()
TOKENS = letters("ab")
LONGEST = 4
ChiSquare = Callable[[Mapping[object, int], Mapping[object, float]], float]
MakeHead = Callable[..., Head]


def table(seed: int, zeros: float = 0.0) -> Table:
    return random_table("ab", LONGEST, torch.Generator().manual_seed(seed), zeros=zeros)


def run(
    factor: Factor,
    particles: Particles,
    runs: int = 1,
    *,
    seed: int = 0,
    max_tokens: int = 10,
    sampling: Sampling = PLAIN,
) -> list[Population]:
    generators = [generator_of(seed, [], n) for n in range(runs)]
    return sample_particles(
        factor, [[]] * runs, generators, max_tokens=max_tokens, particles=particles, sampling=sampling
    )


def averaged(populations: list[Population]) -> dict[tuple[int, ...], float]:
    """The law of a text drawn by weight, averaged over runs."""
    law: dict[tuple[int, ...], float] = {}
    for population in populations:
        for text, weight in zip(population.token_ids, population.weights, strict=True):
            law[text] = law.get(text, 0.0) + weight / len(populations)
    return law


A_FUNCTION = FunctionFactor("as", TOKENS, lambda text: 1.5 * text.count("a"), lambda text: 1.2 * text.count("a"))
COMPOSITIONS: dict[str, Factor] = {
    "a product": table(1) * table(2) ** 1.5 / table(3),
    "holes": table(4, zeros=0.4) * table(5),
    "a judge of whole texts": table(1)
    * pattern_factor("pattern", "(ab|b).*", TOKENS)
    * LengthFactor("length", TOKENS, 2, 1),
    "a judge of beginnings": table(1) * table(2) * A_FUNCTION**0.8,
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_keeps_expected_offspring(scheme: str) -> None:
    """Every weight has N W offspring on average, within 5 standard errors of 20,000 draws."""
    generator = torch.Generator().manual_seed(0)
    weight_N = torch.tensor([0.5, 0.0, 0.3, 0.05, 0.15], dtype=torch.float64)
    runs = 20_000
    count_N = torch.zeros(5, dtype=torch.float64)
    for _ in range(runs):
        ancestor_N = SCHEMES[scheme](weight_N, torch.rand(5, generator=generator, dtype=torch.float64))
        assert ancestor_N.tolist() == sorted(ancestor_N.tolist())
        count_N += torch.bincount(ancestor_N, minlength=5)
    error_N = 5 * (5 * weight_N * (1 - weight_N) / runs).sqrt() + 1e-12
    assert bool(((count_N / runs - 5 * weight_N).abs() <= error_N).all())
    assert count_N[1] == 0


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"multinomial"}))
def test_equal_weights_stay_where_they_are(scheme: str) -> None:
    uniform_N = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert SCHEMES[scheme](torch.full((7,), 1 / 7, dtype=torch.float64), uniform_N).tolist() == list(range(7))


def test_effective_size() -> None:
    assert effective_size(torch.zeros(6)) == pytest.approx(6)
    assert effective_size(torch.tensor([0.0, -math.inf, -math.inf])) == pytest.approx(1)
    assert effective_size(torch.full((3,), -math.inf)) == 0


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_z_is_unbiased_and_its_log_is_low(name: str, scheme: str, threshold: float) -> None:
    """Mean of Z within 4.5 standard errors of the enumerated one: 7 false alarms in a million."""
    factor = COMPOSITIONS[name]
    log_z = math.log(math.fsum(math.exp(w) for w in log_weights_of_texts(factor, LONGEST).values()))
    for number in (2, 8):
        found = run(factor, Particles(number=number, scheme=scheme, threshold=threshold), runs=600)
        ratio_R = torch.tensor([math.exp(p.log_z - log_z) for p in found], dtype=torch.float64)
        assert abs(float(ratio_R.mean()) - 1) <= 4.5 * float(ratio_R.std()) / math.sqrt(len(found)) + 1e-12
        if 0 in ratio_R:
            continue  # a run in which all died: the mean of its log is -inf
        log_R = ratio_R.log()
        assert float(log_R.mean()) <= 2 * float(log_R.std()) / math.sqrt(len(found)) + 1e-12


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_law_approaches_the_product_with_more_particles(name: str) -> None:
    """The averaged weighted law: its distance falls with the number of particles, the local product's does not."""
    factor = COMPOSITIONS[name]
    want = global_product(factor, LONGEST)
    local = total_variation(local_product(factor, LONGEST), want)
    distances = [
        total_variation(averaged(run(factor, Particles(number=number), runs=3200 // number + 200)), want)
        for number in (2, 8, 32, 128)
    ]
    assert distances[0] > distances[1] > distances[3]
    assert distances[2] < 0.06 < local
    assert distances[3] < 0.03


def test_drawn_texts_follow_the_product(chi_square: ChiSquare) -> None:
    """64 particles leave a bias below what 1000 draws can see; fixed seed, one false alarm in a million."""
    factor = COMPOSITIONS["a judge of beginnings"]
    found = run(factor, Particles(number=64), runs=1000)
    count: dict[object, int] = {}
    for population in found:
        text = population.token_ids[population.chosen]
        count[text] = count.get(text, 0) + 1
    assert chi_square(count, global_product(factor, LONGEST)) > 1e-6


@pytest.mark.parametrize("method", ["smc", "importance", "metropolis"])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_weights_of_texts_are_those_of_the_composition(method: str, name: str) -> None:
    factor = COMPOSITIONS[name]
    want = log_weights_of_texts(factor, LONGEST)
    for population in run(factor, Particles(method=method, number=16), runs=5):
        assert sum(population.weights) == pytest.approx(1)
        for text, log_weight, weight in zip(
            population.token_ids, population.log_weights, population.weights, strict=True
        ):
            if weight > 0:
                assert log_weight == pytest.approx(want[text], abs=1e-9)
            else:
                assert log_weight == -math.inf or method == "metropolis"


@pytest.mark.parametrize("method", ["importance", "metropolis"])
def test_methods_without_resampling_approach_the_product_too(method: str) -> None:
    factor = COMPOSITIONS["a product"]
    want = global_product(factor, LONGEST)
    found = run(factor, Particles(method=method, number=256), runs=60)
    assert total_variation(averaged(found), want) < 0.05
    assert not any(p.resampled for p in found)
    assert all((p.acceptance is not None) == (method == "metropolis") for p in found)


def test_metropolis_leaves_the_product_as_it_is() -> None:
    """From every pair of texts the chain's move keeps detailed balance, by its rule of acceptance."""
    log_weight = {"here": math.log(3.0), "there": math.log(2.0)}
    moved = sum(chain([log_weight["here"], log_weight["there"]], [0.0, (n + 0.5) / 999])[1] for n in range(999)) / 999
    assert moved == pytest.approx(2 / 3, abs=1e-3)
    assert chain([log_weight["there"], log_weight["here"]], [0.0, 0.999]) == ([0, 1], 1)
    assert chain([-math.inf, 0.0, -math.inf], [0.5, 0.5, 0.5]) == ([1, 1], 0)


def test_the_exact_twist_leaves_nothing_to_chance() -> None:
    """A judge of beginnings that knows what is to come: equal weights, ESS = N, Z exact in every run."""
    product = table(1) * table(2)
    log_weight = log_weights_of_texts(product, LONGEST)

    def psi(text: str) -> float:
        """Total weight of all texts that begin so, over that of the beginning itself."""
        read = tuple("ab".index(letter) for letter in text)
        total = math.fsum(math.exp(w) for t, w in log_weight.items() if t[: len(read)] == read)
        return math.log(total) - sum(_steps(product, read)) if total else -math.inf

    twist = FunctionFactor("twist", TOKENS, lambda text: 0.0, psi)
    log_z = math.log(math.fsum(math.exp(w) for w in log_weight.values()))
    # Under a name it is no judge that is asked about drawn tokens, but weighs every next token.
    for population in run(product * Named("twist", twist), Particles(number=4, threshold=1.0), runs=20):
        assert population.log_z == pytest.approx(log_z, abs=1e-9)
        assert population.weights == pytest.approx([0.25] * 4, abs=1e-9)
        assert population.effective_sizes == pytest.approx([4.0] * len(population.effective_sizes), abs=1e-9)


def run_twisted(factor: Factor, twist: Factor, particles: Particles, runs: int) -> list[Population]:
    generators = [generator_of(0, [], n) for n in range(runs)]
    return sample_particles(
        factor, [[]] * runs, generators, max_tokens=10, particles=particles, sampling=PLAIN, twist=twist
    )


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_twist_changes_no_law(name: str, threshold: float) -> None:
    """A wrong guess of what is to come: Z stays unbiased, weights stay those of the composition, the law converges."""
    factor, twist = COMPOSITIONS[name], table(9) ** 0.7
    weights = log_weights_of_texts(factor, LONGEST)
    log_z = math.log(math.fsum(math.exp(w) for w in weights.values()))
    found = run_twisted(factor, twist, Particles(number=16, threshold=threshold), 500)
    ratio_R = torch.tensor([math.exp(p.log_z - log_z) for p in found], dtype=torch.float64)
    assert abs(float(ratio_R.mean()) - 1) <= 4.5 * float(ratio_R.std()) / math.sqrt(len(found))
    for population in found[:20]:
        for text, log_weight, weight in zip(
            population.token_ids, population.log_weights, population.weights, strict=True
        ):
            if weight > 0:
                assert log_weight == pytest.approx(weights[text], abs=1e-9)
    law: dict[tuple[int, ...], float] = {}
    for population, ratio in zip(found, ratio_R.tolist(), strict=True):
        for text, weight in zip(population.token_ids, population.weights, strict=True):
            law[text] = law.get(text, 0.0) + weight * ratio / len(found)
    assert total_variation(law, global_product(factor, LONGEST)) < 0.06


def test_a_twist_that_knows_a_judge_of_whole_texts_saves_particles() -> None:
    """The judge speaks at the end alone; with the exact look-ahead as the twist all particles weigh the same."""
    judge = FunctionFactor("late", TOKENS, lambda text: 2.0 * text.count("b") - 3.0 * text.startswith("b"))
    product = table(1) * judge
    log_weight = log_weights_of_texts(product, LONGEST)

    def psi(text: str) -> float:
        read = tuple("ab".index(letter) for letter in text)
        total = math.fsum(math.exp(w) for t, w in log_weight.items() if t[: len(read)] == read)
        return math.log(total) - sum(_steps(table(1), read)) if total else -math.inf

    # At the end the look-ahead is the judge's own word: what was led is taken back, and the judge says it.
    twist = Named("twist", FunctionFactor("twist", TOKENS, judge.function, psi))
    log_z = math.log(math.fsum(math.exp(w) for w in log_weight.values()))
    for population in run_twisted(product, twist, Particles(number=4, threshold=1.0), 20):
        assert population.log_z == pytest.approx(log_z, abs=1e-9)
        assert population.weights == pytest.approx([0.25] * 4, abs=1e-9)
    [blind] = run(product, Particles(number=64, threshold=0.0))
    [led] = run_twisted(product, twist, Particles(number=64, threshold=0.0), 1)
    assert led.log_z_error < 1e-6 < 0.02 < blind.log_z_error


@pytest.mark.parametrize("top_k", [1, 2])
def test_truncation_looks_at_what_is_not_led(top_k: int) -> None:
    factor, sampling = table(1) * table(2), Sampling(top_k=top_k)
    plain = sample_particles(
        factor, [[]] * 300, [generator_of(1, [], n) for n in range(300)], max_tokens=10,
        particles=Particles(number=16), sampling=sampling,
    )  # fmt: skip
    led = sample_particles(
        factor, [[]] * 300, [generator_of(0, [], n) for n in range(300)], max_tokens=10,
        particles=Particles(number=16), sampling=sampling, twist=table(9) ** 3.0,
    )  # fmt: skip
    z_2R = torch.tensor([[math.exp(p.log_z) for p in found] for found in (plain, led)], dtype=torch.float64)
    error = float((z_2R.var(1) / 300).sum().sqrt())
    assert abs(float(z_2R[0].mean() - z_2R[1].mean())) <= 4.5 * error + 1e-12
    assert {t for p in led for t in p.token_ids} <= {t for p in plain for t in p.token_ids} | {
        t for p in led for t, w in zip(p.token_ids, p.weights, strict=True) if w > 0
    }


def test_the_effective_size_is_of_finished_texts() -> None:
    judge = pattern_factor("ab", "ab?", TOKENS)
    [population] = run(table(1) * judge, Particles(number=64, threshold=0.0))
    weights = [w for w in population.weights if w > 0]
    assert len(weights) < 64
    assert population.effective_sizes[-1] == pytest.approx(1 / sum(w * w for w in weights))


def _steps(factor: Factor, text: tuple[int, ...]) -> list[float]:
    state, steps = factor.start(torch.empty(1, 0, dtype=torch.long)), []
    for token in text:
        steps.append(float(state.log_weight_BV[0, token]))
        state = factor.extend(state, torch.tensor([token]))
    return steps


def test_the_error_of_log_z_is_its_spread() -> None:
    """Multinomial resampling at every token or never: the estimate of the variance is unbiased, within 4.5 errors."""
    factor = COMPOSITIONS["a product"]
    log_z = math.log(math.fsum(math.exp(w) for w in log_weights_of_texts(factor, LONGEST).values()))
    for threshold in (0.0, 1.0):
        found = run(factor, Particles(number=8, scheme="multinomial", threshold=threshold), runs=2500)
        z_R = torch.tensor([math.exp(p.log_z - log_z) for p in found], dtype=torch.float64)
        spread_R = (z_R - 1).square()
        estimate_R = torch.tensor([p.log_z_variance for p in found], dtype=torch.float64) * z_R.square()
        gap_R = estimate_R - spread_R
        assert abs(float(gap_R.mean())) <= 4.5 * float(gap_R.std()) / math.sqrt(len(found))
        assert float(estimate_R.mean()) == pytest.approx(float(spread_R.mean()), rel=0.2)


def test_one_ancestor_says_nothing_about_the_error() -> None:
    assert relative_variance([0.25] * 4, [2] * 4, 3) == 1
    assert relative_variance([0.25] * 4, [0, 1, 2, 3], 0) == pytest.approx(0)
    assert relative_variance([1.0, 0.0, 0.0, 0.0], [0, 1, 2, 3], 0) == pytest.approx(1)


def test_identities() -> None:
    """One part alone has no normaliser; order and grouping, and a constant for each token, do not change the law."""
    one, two, three = table(1), table(2), table(3)
    for population in run(one * two**0.0, Particles(number=4), runs=5):
        assert population.log_z == pytest.approx(0, abs=1e-12)
        assert population.log_z_error == pytest.approx(0, abs=1e-6)
        assert population.num_ancestors == 4
    [a] = run((one * two) * three, Particles(number=16))
    [b] = run(three * (two * one), Particles(number=16))
    assert a.token_ids == b.token_ids
    assert a.weights == pytest.approx(b.weights, abs=1e-9)
    constant = FunctionFactor("k", TOKENS, lambda text: 0.7 * (len(text) + 1), lambda text: 0.7 * len(text))
    want = global_product(one * two * constant, LONGEST)
    assert total_variation(averaged(run(one * two * constant, Particles(number=64), runs=80)), want) < 0.05
    for population in run(one**0.4 * two**0.6, Particles(number=8), runs=20):
        assert population.log_z <= 1e-12  # Hoelder: convex weights never sum to more than one


def test_a_pinned_exact_sample_bounds_log_z_from_above() -> None:
    """Z with one particle's path drawn from the product itself: the mean of its log is no less than log Z."""
    product = table(1) * table(2)
    log_weight = log_weights_of_texts(product, LONGEST)
    log_z = math.log(math.fsum(math.exp(w) for w in log_weight.values()))
    want = global_product(product, LONGEST)
    local = LocalProduct(product)
    log_share = log_weights_of_texts(local, LONGEST)
    ratio = {text: math.exp(log_weight[text] - log_share[text]) for text in want}  # W(x)
    pinned = sum(want[x] * math.exp(log_share[y]) * math.log((ratio[x] + ratio[y]) / 2) for x in want for y in want)
    free = sum(math.exp(log_share[x] + log_share[y]) * math.log((ratio[x] + ratio[y]) / 2) for x in want for y in want)
    assert free < log_z < pinned
    found = run(product, Particles(method="importance", number=2), runs=3000)
    log_R = torch.tensor([p.log_z for p in found], dtype=torch.float64)
    assert abs(float(log_R.mean()) - free) <= 4.5 * float(log_R.std()) / math.sqrt(len(found))


def test_the_end_is_forced_at_the_limit() -> None:
    """With fewer tokens than the longest text has: enumeration of the texts that end in time."""
    product = table(1) * table(2)
    want = global_product(product, 2)
    log_z = math.log(math.fsum(math.exp(w) for w in log_weights_of_texts(product, 2).values()))
    found = run(product, Particles(number=64), runs=300, max_tokens=2)
    assert total_variation(averaged(found), want) < 0.02
    ratio_R = torch.tensor([math.exp(p.log_z - log_z) for p in found], dtype=torch.float64)
    assert abs(float(ratio_R.mean()) - 1) <= 4.5 * float(ratio_R.std()) / math.sqrt(len(found))
    assert all(text[-1] == TOKENS.end_ids[0] for p in found for text in p.token_ids)


def test_a_text_may_be_cut_at_the_limit() -> None:
    product = table(1) * table(2)
    want: dict[tuple[int, ...], float] = {}
    state = product.start(torch.empty(1, 0, dtype=torch.long))
    for first in range(3):
        if first == 2:
            want[2,] = float(state.log_weight_BV[0, 2].exp())
            continue
        after = product.extend(state, torch.tensor([first]))
        for second in range(3):
            want[first, second] = float((state.log_weight_BV[0, first] + after.log_weight_BV[0, second]).exp())
    total = sum(want.values())
    found = run(product, Particles(number=64, limit="cut"), runs=300, max_tokens=2)
    assert total_variation(averaged(found), {text: w / total for text, w in want.items()}) < 0.02
    assert {reason for p in found for reason in p.finish_reasons} == {"end", "length"}


def test_a_temperature_sharpens_whole_texts() -> None:
    product = table(1) * table(2)
    want = global_product(product**2.0, LONGEST)
    found = run(product, Particles(number=64), runs=200, sampling=Sampling(temperature=0.5))
    assert total_variation(averaged(found), want) < 0.04


def test_truncation_leaves_the_law_of_what_is_left() -> None:
    """Top-k of one: only the greedy text is left, whose weight is then Z."""
    product = table(1) * table(2)
    [greedy] = {p.token_ids for p in run(product, Particles(number=2), runs=3, sampling=Sampling(top_k=1))}
    [population] = run(product, Particles(number=2), sampling=Sampling(top_k=1))
    assert len(set(greedy)) == 1
    assert population.log_z == pytest.approx(log_weights_of_texts(product, LONGEST)[greedy[0]], abs=1e-9)


def test_same_seed_same_population_whatever_else_is_written() -> None:
    factor = COMPOSITIONS["a judge of beginnings"]
    together = run(factor, Particles(number=8), runs=40)
    again = run(factor, Particles(number=8), runs=3)
    for a, b in zip(together[:3], again, strict=True):
        assert a.token_ids == b.token_ids
        assert a.weights == pytest.approx(b.weights, abs=1e-12)
        assert a.chosen == b.chosen
    assert run(factor, Particles(number=8), seed=1)[0].token_ids != again[0].token_ids


def test_exponents_by_row_belong_to_populations() -> None:
    exponent_B = torch.tensor([0.0, 2.0, -1.0])
    factor = table(1) * table(2) ** exponent_B * A_FUNCTION**exponent_B
    found = run(factor, Particles(number=16), runs=3)
    for population, exponent in zip(found, exponent_B.tolist(), strict=True):
        want = log_weights_of_texts(table(1) * table(2) ** exponent * A_FUNCTION**exponent, LONGEST)
        for text, log_weight in zip(population.token_ids, population.log_weights, strict=True):
            assert log_weight == pytest.approx(want[text], abs=1e-6)


def test_stop_strings_end_a_particle() -> None:
    [population] = run(table(1), Particles(number=64), sampling=Sampling(stop=("ba",)))
    assert "stop" in population.finish_reasons
    for text, token_ids, reason in zip(population.texts, population.token_ids, population.finish_reasons, strict=True):
        assert "ba" not in text
        assert (reason == "stop") == (token_ids[-2:] == (1, 0))


def test_dead_ends_are_said() -> None:
    never = FunctionFactor("never", TOKENS, lambda text: False)
    early = FunctionFactor("never", TOKENS, lambda text: False, lambda text: len(text) < 2)
    for factor, method in ((never, "smc"), (never, "importance"), (never, "metropolis"), (early, "smc")):
        [population] = run(table(1) * factor, Particles(method=method, number=4))
        assert population.log_z == -math.inf
        assert not any(population.weights)
        with pytest.raises(DeadEndError, match="4 particles came to a dead end"):
            population.drawn()


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="stratified"):
        run(table(1), Particles(scheme="stratifed"))
    with pytest.raises(InputError, match="temperature above 0"):
        run(table(1), Particles(), sampling=Sampling(temperature=0))
    with pytest.raises(InputError, match="no penalty"):
        run(table(1), Particles(), sampling=Sampling(repetition_penalty=1.2))
    with pytest.raises(InputError, match="language model"):
        run(A_FUNCTION, Particles())


def test_no_tokens_at_all() -> None:
    [population] = run(table(1) * table(2), Particles(number=2), max_tokens=0)
    assert population.texts == ("", "")
    assert population.log_z == 0


@pytest.mark.parametrize("name", ["heads", "heads and a judge", "no heads", "by row"])
def test_the_fused_product_equals_its_slow_twin(tiny_lm: CausalLM, make_head: MakeHead, name: str) -> None:
    heads = tiny_lm * make_head(3) ** 1.5 * make_head(0) ** -0.5
    judge = pattern_factor("pattern", ".*", tiny_lm.vocabulary)
    factor = {
        "heads": heads,
        "heads and a judge": heads * judge,
        "no heads": tiny_lm * judge,
        "by row": tiny_lm * make_head(3) ** torch.tensor([1.0, -2.0]),
    }[name]
    fused = fuse_product(factor)
    assert any(isinstance(part, HeadedProduct) for part in (fused, *getattr(fused, "parts", ()))) == (
        name != "no heads"
    )
    prefix_BT = torch.tensor([[-1, 0, 5], [0, 7, 9]])
    slow, fast = factor.start(prefix_BT), fused.start(prefix_BT)
    for token_B in torch.tensor([[4, 5], [6, 7], [8, 9]]):
        torch.testing.assert_close(fast.log_weight_BV.double(), slow.log_weight_BV.double(), atol=1e-4, rtol=0)
        slow, fast = factor.extend(slow, token_B), fused.extend(fast, token_B)
    text_BT = torch.tensor([[4, 6, 8], [5, 7, -1]])
    torch.testing.assert_close(
        fused.score(prefix_BT, text_BT).double(), factor.score(prefix_BT, text_BT).double(), atol=1e-4, rtol=0
    )


def test_a_language_model_keeps_its_cache_straight(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """After many resamplings each particle's weight is that of its text, read anew: no cache was mixed up."""
    factor = tiny_lm * make_head(3) ** 2.0 * make_head(0) ** -1.0
    prompts = [[0, 5, 6], [0, 9]]
    generators = [generator_of(0, prompt, 0) for prompt in prompts]
    found = sample_particles(
        factor, prompts, generators, max_tokens=12, particles=Particles(number=12, threshold=1.0), sampling=PLAIN
    )
    for prompt, population in zip(prompts, found, strict=True):
        assert len(population.resampled) >= 5
        for text, log_weight in zip(population.token_ids, population.log_weights, strict=True):
            want = factor.score(torch.tensor([prompt]), torch.tensor([text])).double().sum()
            assert log_weight == pytest.approx(float(want), abs=1e-3)  # float32 in another order
