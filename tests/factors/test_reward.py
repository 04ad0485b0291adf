"""Rewards of whole responses: learned, kept, and never taught by length alone."""

import random
from pathlib import Path

import pytest
import torch

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import IncompatibleError
from factorlm.factors.feedback import Pair, Preferences
from factorlm.factors.preferences import LENGTH_EFFECT, MATCHED_ACCURACY, PAIR_ACCURACY
from factorlm.factors.reward import Reward, RewardWeights, mean_states
from factorlm.factors.reward_training import LENGTH_CORRELATION, train_reward
from factorlm.factors.store import Store, load
from factorlm.factors.training import Description
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.particles import Particles, sample_particles
from factorlm.models import CausalLM

ABOUT = Description(name="likes-a", description="", label="", licence="CC0-1.0", sources=())
LETTERS = "abcdefgh"


def pairs_of(lm: CausalLM, weight_D: torch.Tensor, num: int, *, lengthy: float = 0.0, seed: int = 0) -> Preferences:
    """Pairs chosen by a planted reward of mean states, and by length if shorter texts are liked."""
    chance = random.Random(seed)
    texts = [" ".join(chance.choices(LETTERS, k=chance.randint(3, 10))) for _ in range(2 * num)]
    rows = [tuple(lm.encode_text(" " + text)) for text in texts]
    mean_BD = mean_states(lm, [(*lm.start_ids, *lm.encode_text(f"q{n // 2}")) for n in range(2 * num)], rows)
    reward_B = (mean_BD.double() - mean_BD.double().mean(0)) @ weight_D
    reward_B = 3 * reward_B / reward_B.std()
    found = []
    for n in range(num):
        one, other = 2 * n, 2 * n + 1
        gap = float(reward_B[one] - reward_B[other]) - lengthy * (len(rows[one]) - len(rows[other]))
        if gap < 0:
            one, other = other, one
        if texts[one] != texts[other]:
            found.append(Pair(f"q{n}", texts[one], texts[other]))
    return Preferences(tuple(found))


@pytest.fixture
def planted_D(tiny_lm: CausalLM) -> torch.Tensor:
    return torch.randn(tiny_lm.width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_a_planted_reward_is_found_kept_and_used(tiny_lm: CausalLM, planted_D: torch.Tensor, tmp_path: Path) -> None:
    trained = train_reward(tiny_lm, pairs_of(tiny_lm, planted_D, 300), ABOUT)
    assert trained.manifest.effect[PAIR_ACCURACY] > 0.85
    assert trained.manifest.effect[MATCHED_ACCURACY] > 0.8
    folder = Store(tmp_path).save(trained.manifest, trained.tensors)
    bound = load(str(folder)).bind(tiny_lm)
    assert isinstance(bound, Reward)
    prompt, text = (*tiny_lm.start_ids, *tiny_lm.encode_text("q")), tuple(tiny_lm.encode_text(" a b c"))
    slow = tiny_lm.encode(torch.tensor([[*prompt]]))
    states = []
    for token in text:
        slow = tiny_lm.advance(slow, torch.tensor([[token]]))
        states.append(slow.hidden_BD[0])
    expected = torch.stack(states).mean(0).double() @ trained.weights.weight_D - trained.weights.offset
    assert bound.finished(prompt, text) == pytest.approx(float(expected), abs=1e-4)
    assert bound.finished(prompt, (*text, tiny_lm.vocabulary.end_ids[0])) == pytest.approx(float(expected), abs=1e-4)


def test_another_encoder_is_refused(tiny_lm: CausalLM, planted_D: torch.Tensor, tmp_path: Path) -> None:
    trained = train_reward(tiny_lm, pairs_of(tiny_lm, planted_D, 40), ABOUT)
    card = trained.manifest.encoder.model_copy(update={"fingerprint": "0" * 16})
    folder = Store(tmp_path).save(trained.manifest.model_copy(update={"encoder": card}), trained.tensors)
    with pytest.raises(IncompatibleError, match="needs the encoder"):
        load(str(folder)).bind(tiny_lm)


def test_length_is_learned_first_unless_it_is_taken_out(tiny_lm: CausalLM, planted_D: torch.Tensor) -> None:
    preferences = pairs_of(tiny_lm, planted_D, 300, lengthy=2.0)
    with_it = train_reward(tiny_lm, preferences, ABOUT, is_length_controlled=False).manifest
    without = train_reward(tiny_lm, preferences, ABOUT).manifest
    assert with_it.effect[LENGTH_EFFECT] == 0
    assert without.effect[LENGTH_EFFECT] < -1  # log odds for ten tokens more
    assert abs(without.effect[LENGTH_CORRELATION]) < abs(with_it.effect[LENGTH_CORRELATION])


def test_mean_states_are_those_of_one_text_at_a_time(tiny_lm: CausalLM) -> None:
    prefixes = [(*tiny_lm.start_ids, *tiny_lm.encode_text(text)) for text in ("the good", "b", "a c d")]
    rows = [tuple(tiny_lm.encode_text(text)) for text in (" bad a", "", " c")]
    together = mean_states(tiny_lm, prefixes, rows)
    for b, (prefix, row) in enumerate(zip(prefixes, rows, strict=True)):
        hidden_TD = tiny_lm.hidden_before(pad_left([list(prefix)]), pad_right([[*row, 0]]))[0]
        torch.testing.assert_close(together[b], hidden_TD[1 if row else 0 :].mean(0), atol=1e-4, rtol=1e-4)


def test_scaling_scales_rewards() -> None:
    weights = RewardWeights(torch.tensor([1.0, 2.0]), 0.5)
    mean_BD = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    torch.testing.assert_close(weights.scaled(2.0)(mean_BD), 2 * weights(mean_BD))
    assert weights(mean_BD).tolist() == [2.5, 5.5]


def test_the_weight_of_a_text_is_its_reward_however_it_is_read(tiny_lm: CausalLM, planted_D: torch.Tensor) -> None:
    reward = Reward("r", tiny_lm.vocabulary, RewardWeights(planted_D, 0.3), tiny_lm)
    prefix, text = tuple(tiny_lm.start_ids), (*tiny_lm.encode_text(" a b c"), tiny_lm.vocabulary.end_ids[0])
    steps = reward.score(torch.tensor([prefix]), torch.tensor([text]))
    assert float(steps.sum()) == pytest.approx(reward.finished(prefix, text), abs=1e-6)
    assert reward.unfinished(prefix, ()) == 0
    assert reward.unfinished(prefix, text[:3]) == reward.finished(prefix, text[:2])
    assert reward.unfinished(prefix, text[:4]) == reward.finished(prefix, text[:4])
    assert reward.finished(prefix, text[-1:]) == 0


def test_particles_with_a_reward_estimate_z_without_bias(tiny_lm: CausalLM, planted_D: torch.Tensor) -> None:
    """Looking ahead changes what is kept, not what is estimated."""
    reward = Reward("r", tiny_lm.vocabulary, RewardWeights(0.2 * planted_D, 0.0), tiny_lm)
    factor, prompt = tiny_lm * reward, [*tiny_lm.start_ids, *tiny_lm.encode_text("the")]
    first_V = tiny_lm.start(torch.tensor([prompt])).log_weight_BV[0].double()
    ends, first = set(tiny_lm.vocabulary.end_ids), range(len(first_V))
    rows, weights = [], []
    after = tiny_lm.start(torch.tensor([prompt] * len(first_V)))
    after_VV = tiny_lm.extend(after, torch.arange(len(first_V))).log_weight_BV.double()
    for one in first:
        for other in first:
            row, weight = ((one,), first_V[one]) if one in ends else ((one, other), first_V[one] + after_VV[one, other])
            rows.append(row)
            weights.append(float(weight))
            if one in ends:
                break
    values = torch.tensor(reward.of([tuple(prompt)] * len(rows), rows), dtype=torch.float64)
    log_z = float((torch.tensor(weights, dtype=torch.float64) + values).logsumexp(0))
    runs = 60
    populations = sample_particles(
        factor, [prompt] * runs, [generator_of(0, [], n) for n in range(runs)], max_tokens=2,
        particles=Particles(number=8, limit="cut", threshold=0.9), sampling=Sampling(),
    )  # fmt: skip
    ratio_R = torch.tensor([p.log_z - log_z for p in populations], dtype=torch.float64).exp()
    error = float(ratio_R.std()) / runs**0.5
    assert abs(float(ratio_R.mean()) - 1) < 4 * error  # false alarm rate below 1e-4
    assert error < 0.2
