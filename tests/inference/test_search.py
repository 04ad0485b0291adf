"""Search on tiny languages: the best text where it can be known, the law of best-of-n, and honest counts."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch

import factorlm as fl
from factorlm.algebra import LocalProduct, log_weights_of_texts
from factorlm.errors import DeadEndError, InputError
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.search import (
    ContrastiveSearch,
    Counting,
    TreeSearch,
    beam_search,
    best_of,
    contrastive_search,
    tree_search,
    vote,
)
from factorlm.models import CausalLM
from factorlm.models.table import Table, random_table
from factorlm.text import TextStream, letters

ChiSquare = Callable[[Mapping[object, int], Mapping[object, float]], float]


def table(seed: int, alphabet: str = "ab", longest: int = 4, zeros: float = 0.0) -> Table:
    return random_table(alphabet, longest, torch.Generator().manual_seed(seed), zeros=zeros)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_global", [False, True])
def test_wide_beams_find_the_best_texts(seed: int, is_global: bool) -> None:
    product = table(seed) * table(seed + 10) ** 1.5
    weights = log_weights_of_texts(product if is_global else LocalProduct(product), 4)
    best = sorted(weights.items(), key=lambda item: -item[1])[:3]
    found = beam_search(product, [], width=30, max_tokens=4, is_global=is_global, num_found=3)
    assert [f.token_ids for f in found] == [text for text, _ in best]
    assert [f.value for f in found] == pytest.approx([weight for _, weight in best], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy_or_better(seed: int) -> None:
    product = table(seed, zeros=0.3) * table(seed + 10)
    row = Row([], generator_of(0, [], 0), TextStream())
    list(sample_local(product, [row], max_tokens=4, sampling=Sampling(temperature=0)))
    [found] = beam_search(product, [], width=1, max_tokens=4)
    greedy_weight = math.fsum(row.log_probs)
    assert found.log_weight >= greedy_weight - 1e-12  # an end on the way may be worth more than where greed leads
    if found.log_weight == pytest.approx(greedy_weight, abs=1e-12):
        assert found.token_ids == tuple(row.token_ids)


def test_length_power_prefers_longer_texts() -> None:
    product = table(0)
    weights = log_weights_of_texts(product, 4)
    best = max(weights, key=lambda text: weights[text] / len(text) ** 2.0)
    [found] = beam_search(product, [], width=40, max_tokens=4, length_power=2.0)
    assert found.token_ids == best
    assert found.value == pytest.approx(weights[best] / len(best) ** 2, abs=1e-9)


def test_beams_of_a_language_model_keep_their_caches(tiny_lm: CausalLM) -> None:
    found = beam_search(tiny_lm, [0, 5], width=4, max_tokens=8, num_found=4)
    for one in found:
        want = float(tiny_lm.score(torch.tensor([[0, 5]]), torch.tensor([one.token_ids])).double().sum())
        assert one.log_weight == pytest.approx(want, abs=1e-3)  # float32 in another order
    assert found[0].value >= found[1].value
    assert found[0].spent.num_passes <= 8
    assert found[0].spent.num_tokens <= 2 + 4 * 7


def test_beams_can_die() -> None:
    nothing = Table(letters("ab"), {(): torch.full((3,), -math.inf, dtype=torch.float64)})
    with pytest.raises(DeadEndError, match="2 beams"):
        beam_search(nothing, [], width=2, max_tokens=3)
    with pytest.raises(InputError, match="width"):
        beam_search(table(0), [], width=0)


def test_counting_changes_nothing_and_counts_all() -> None:
    counting = Counting(table(0))
    state = counting.start(torch.tensor([[-1, 0], [1, 0]]))
    state = counting.extend(state, torch.tensor([0, 1]))
    assert torch.equal(state.log_weight_BV, table(0).start(torch.tensor([[-1, 0, 0], [1, 0, 1]])).log_weight_BV)
    assert (counting.spent.num_tokens, counting.spent.num_passes) == (5, 2)


def test_best_of_n_has_the_law_that_is_claimed(tiny_lm: CausalLM, chi_square: ChiSquare) -> None:
    """With ties: p(x) (F(r)^n - F(below)^n) / P(r), of a text of one token. One false alarm in a million."""
    n, runs = 3, 600
    model = fl.Model(tiny_lm, tiny_lm)
    prompt = "the"
    log_prob_V = tiny_lm.start(torch.tensor([model.encode_prompt(prompt, 1)])).log_weight_BV[0].double()
    prob = dict(enumerate(log_prob_V.exp().tolist()))

    def reward_of(text: str) -> float:
        return float(len(text) + (text[:1] in "aeiou"))

    reward = {v: reward_of(tiny_lm.vocabulary.token_bytes[v].decode(errors="replace")) for v in prob}
    want = {}
    for v, p in prob.items():
        same = sum(q for u, q in prob.items() if reward[u] == reward[v])
        below = sum(q for u, q in prob.items() if reward[u] < reward[v])
        want[v] = p / same * ((below + same) ** n - below**n)
    assert sum(want.values()) == pytest.approx(1)
    found = [
        best_of(model, prompt, lambda texts: [reward_of(text) for text in texts], n=n, max_tokens=1, seed=seed)[0]
        for seed in range(runs)
    ]
    assert chi_square(Counter(f.token_ids[0] for f in found), want) > 1e-6
    divergence = math.fsum(w * math.log(w / prob[v]) for v, w in want.items() if w > 0)
    assert divergence <= math.log(n) - (n - 1) / n + 1e-9


def test_best_of_takes_the_best(tiny_lm: CausalLM) -> None:
    model = fl.Model(tiny_lm, tiny_lm)
    found = best_of(model, "the", lambda texts: [text.count("e") for text in texts], n=6, max_tokens=10, seed=1)
    plain = model.generate("the", n=6, max_tokens=10, seed=1)
    assert sorted(f.text for f in found) == sorted(r.text for r in plain)
    assert [f.value for f in found] == sorted((r.text.count("e") for r in plain), reverse=True)
    assert found[0].spent.num_rewards == 6
    assert found[0].spent.num_tokens == len(plain[0].prompt_ids) + sum(len(r.token_ids) - 1 for r in plain)
    with pytest.raises(InputError, match="number for each"):
        best_of(model, "the", lambda texts: [0.0], n=3, max_tokens=2)


def test_the_vote_is_of_those_who_answer(tiny_lm: CausalLM) -> None:
    model = fl.Model(tiny_lm, tiny_lm)
    texts = [r.text for r in model.generate("the", n=20, max_tokens=3, seed=2)]
    firsts = [text[0] for text in texts if text[:1].isalpha()]
    found = vote(model, "the", lambda text: text[0] if text[:1].isalpha() else None, n=20, max_tokens=3, seed=2)
    assert found.answer == Counter(firsts).most_common(1)[0][0]
    assert sum(found.shares.values()) == pytest.approx(len(firsts) / 20)
    assert vote(model, "the", lambda text: None, n=3, max_tokens=2).answer is None


def even_language(depth: int) -> Table:
    """All texts of `depth` letters of three, evenly; each letter is as likely as any other."""
    tokens = letters("abc")
    step_V = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0], dtype=torch.float64).log()
    return Table(tokens, {t: step_V for n in range(depth) for t in itertools.product(range(3), repeat=n)})


@pytest.mark.parametrize("seed", range(5))
def test_tree_search_finds_the_best_leaf(seed: int) -> None:
    """Three letters deep, 27 leaves, exact values of beginnings: 50 simulations find the best."""
    texts = ["".join(t) for t in itertools.product("abc", repeat=3)]
    value_T = 0.6 * torch.rand(27, generator=torch.Generator().manual_seed(seed))
    leaf = dict(zip(texts, value_T.tolist(), strict=True))
    leaf[texts[7 * seed % 27]] = 1.0

    def exact(texts: list[str]) -> list[float]:
        return [max(v for t, v in leaf.items() if t.startswith(text)) for text in texts]

    settings = TreeSearch(simulations=50, rollout=0, exploration=1.0, actions=3)
    found = tree_search(even_language(3), [], exact, settings, max_tokens=4)
    assert found.text == max(leaf, key=leaf.__getitem__)
    assert found.spent.num_rewards == 50 * len(found.token_ids)


def test_rollouts_see_what_comes_later() -> None:
    """A first letter that looks worse until the end: the myopic choice misses it, the search does not."""
    step = {(): [0.2, 0.8, 0.0], (0,): [0.9, 0.1, 0.0], (1,): [0.9, 0.1, 0.0]}
    language = Table(letters("ab"), {k: torch.tensor(v, dtype=torch.float64).log() for k, v in step.items()})

    def ends_well(texts: list[str]) -> list[float]:
        return [float(text == "aa") for text in texts]

    settings = TreeSearch(simulations=40, rollout=3, exploration=0.5)
    found = tree_search(language, [], ends_well, settings, max_tokens=3)
    assert found.text == "aa"
    assert found.finish_reason == "end"
    assert found.log_weight == pytest.approx(math.log(0.2 * 0.9), abs=1e-9)
    again = tree_search(language, [], ends_well, settings, max_tokens=3)
    assert again == found


def test_dead_ends_are_left_out_of_the_tree() -> None:
    """The likelier first letter leads nowhere: it is never written, and where all do, that is said."""
    step = {(): [0.6, 0.4, 0.0], (0,): [0.0, 0.0, 0.0], (1,): [0.0, 0.0, 1.0]}
    language = Table(letters("ab"), {k: torch.tensor(v, dtype=torch.float64).log() for k, v in step.items()})
    found = tree_search(language, [], lambda texts: [0.5], TreeSearch(simulations=5, rollout=2), max_tokens=3)
    assert (found.text, found.finish_reason) == ("b", "end")
    nowhere = Table(letters("ab"), {**language.log_weight, (1,): language.log_weight[(0,)]})
    with pytest.raises(DeadEndError, match="dead end"):
        tree_search(nowhere, [], lambda texts: [0.5], max_tokens=3)
    for reward in (lambda texts: [], lambda texts: [math.nan]):
        with pytest.raises(InputError, match="number for each"):
            tree_search(language, [], reward, max_tokens=3)
    with pytest.raises(InputError, match="at least 1 token"):
        tree_search(language, [], lambda texts: [0.5], max_tokens=0)


def test_tree_search_on_a_language_model(tiny_lm: CausalLM) -> None:
    settings = TreeSearch(simulations=12, actions=5, rollout=2)
    found = tree_search(tiny_lm, [0, 5], lambda texts: [text.count("o") / 10 for text in texts], settings, max_tokens=5)
    want = float(tiny_lm.score(torch.tensor([[0, 5]]), torch.tensor([found.token_ids])).double().sum())
    assert found.log_weight == pytest.approx(want, abs=1e-3)
    assert found.spent.num_rewards == 12 * len(found.token_ids)


# Contrastive search


def contrasted_by_hand(lm: CausalLM, prompt: list[int], k: int, penalty: float, max_tokens: int) -> list[int]:
    """The twin: transformers reads every candidate's whole text anew."""

    def states(ids: list[int]) -> torch.Tensor:
        hidden = lm.model.base_model(torch.tensor([ids])).last_hidden_state[0]
        return hidden / hidden.norm(dim=-1, keepdim=True)

    text: list[int] = []
    while len(text) < max_tokens:
        with torch.no_grad():
            prob_V = lm.model(torch.tensor([prompt + text])).logits[0, -1].softmax(-1)
            before = states(prompt + text)
            values = []
            for token in prob_V.topk(k).indices.tolist():
                likeness = float((before @ states([*prompt, *text, token])[-1]).max())
                values.append(((1 - penalty) * float(prob_V[token]) - penalty * likeness, token))
        text.append(max(values)[1])
        if text[-1] in lm.vocabulary.end_ids:
            break
    return text


@pytest.mark.parametrize(("k", "penalty"), [(1, 0.6), (4, 0.0), (4, 0.3), (6, 0.8)])
def test_contrastive_search_does_what_it_says(tiny_lm: CausalLM, k: int, penalty: float) -> None:
    for prompt in ([0], [0, 5, 6, 7, 8]):
        found = contrastive_search(tiny_lm, prompt, ContrastiveSearch(candidates=k, penalty=penalty), max_tokens=12)
        assert list(found.token_ids) == contrasted_by_hand(tiny_lm, prompt, k, penalty, 12)
        with torch.no_grad():
            log_prob_TV = tiny_lm.model(torch.tensor([prompt + list(found.token_ids)])).logits[0].log_softmax(-1)
        want = [float(log_prob_TV[len(prompt) - 1 + t, token]) for t, token in enumerate(found.token_ids)]
        assert found.log_weight == pytest.approx(sum(want), abs=1e-3)


def test_contrastive_search_reads_each_token_once(fresh_lm: CausalLM) -> None:
    found = contrastive_search(fresh_lm, [0, 5], ContrastiveSearch(candidates=3), max_tokens=6)
    assert fresh_lm.num_tokens_read == found.spent.num_tokens == 2 + 3 * len(found.token_ids)
    with pytest.raises(InputError, match="states of a language model"):
        contrastive_search(table(0), [])


def test_contrastive_search_repeats_less_than_greed(model: fl.Model) -> None:
    """Of runs of four tokens, how many were there before; greedy small models go round in circles."""
    repeats = []
    for penalty in (0.0, 0.6):
        seen: list[float] = []
        for prompt in ("The old house", "In the city, there is", "My favourite food is", "The history of science"):
            how = ContrastiveSearch(penalty=penalty)
            ids = contrastive_search(model.factor, model.encode_prompt(prompt, 60), how, max_tokens=60).token_ids
            runs = [ids[i : i + 4] for i in range(len(ids) - 3)]
            seen.append(1 - len(set(runs)) / max(1, len(runs)))
        repeats.append(sum(seen) / len(seen))
    assert repeats[1] < repeats[0]
