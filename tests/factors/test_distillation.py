"""A head learns from another factor what it does to the next token, and says how much of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from factorlm.algebra import LocalProduct, State
from factorlm.errors import InputError
from factorlm.factors import lessons as lessons_module
from factorlm.factors.calibration import neutral_states
from factorlm.factors.distillation import (
    DIVERGENCE,
    EXPLAINED,
    cross_entropy,
    distil,
    divergence_from,
    fit_bias,
    fit_map,
    relatives,
)
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.lessons import Lessons, neutral_texts, read_lessons
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.named import lexicon, prompt
from factorlm.factors.training import Description
from factorlm.factors.unbound import bind
from factorlm.models import CausalLM

MakeHead = Callable[..., Head]
TEXTS = [f"the {word} in a {other} of good mud" for word in ("river", "sun", "bad") for other in "abcdefghij"]


def potential(lm: CausalLM, weights: HeadWeights, hidden_ND: Tensor) -> Tensor:
    """Phi of every token at every state, less its mean: a constant of the state changes nothing."""
    potential_NV = lm.unembed(weights(hidden_ND))
    return potential_NV - potential_NV.mean(1, keepdim=True)


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def test_a_head_teaches_a_head(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    teacher = make_head(0, 1)
    trained = distil(tiny_lm, teacher, Description("copy", label="distilled from a head"))
    card = trained.manifest
    assert card.effect[EXPLAINED] > 0.99
    assert card.effect[DIVERGENCE] > 0.1
    assert card.calibration is None
    assert card.strengths is not None
    assert card.origin == "distilled from a head"
    assert card.data.train[0].num_texts == 63
    hidden_ND = neutral_states(tiny_lm).hidden_ND[:1]
    taught, learned = (potential(tiny_lm, w, hidden_ND) for w in (teacher.weights, trained.weights))
    assert correlation(taught, learned) > 0.99
    assert float((taught * learned).sum() / taught.square().sum()) == pytest.approx(1, abs=0.05)  # the ridge's share


def test_the_exponent_is_the_teachers(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    teacher = make_head(0, 1)
    once, back = (distil(tiny_lm, teacher, Description("x"), exponent=a, most=400) for a in (1.0, -0.5))
    hidden_ND = neutral_states(tiny_lm).hidden_ND[:1]
    first, second = (potential(tiny_lm, trained.weights, hidden_ND) for trained in (once, back))
    assert correlation(first, second) < -0.99
    assert float((first * second).sum() / first.square().sum()) == pytest.approx(-0.5, abs=0.05)


def test_distilling_is_the_same_every_time(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    first, again, other = (distil(tiny_lm, make_head(2), Description("x"), most=200, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.weights.bias_D, again.weights.bias_D)
    assert first.manifest == again.manifest
    assert not torch.equal(first.weights.bias_D, other.weights.bias_D)


def test_a_map_follows_a_teacher_that_reads_the_state(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    bias, mapped = (distil(tiny_lm, make_head(2), Description("x"), rank=rank) for rank in (0, 4))
    assert 0.1 < bias.manifest.effect[EXPLAINED] < 0.85
    assert mapped.manifest.effect[EXPLAINED] > bias.manifest.effect[EXPLAINED] + 0.1
    assert mapped.weights.rank == 4
    assert mapped.manifest.settings.rank == 4  # type: ignore[union-attr]


def test_lessons_equal_single_steps(tiny_lm: CausalLM) -> None:
    """Their slow twin: every text read token by token, and sums over the vocabulary written out."""
    teacher = bind(lexicon({"good": 1.5, "mud": -2.0, "the": float("-inf")}), tiny_lm)
    start_BT = torch.tensor([tiny_lm.start_ids])
    found, rest = read_lessons(tiny_lm, teacher, TEXTS, (0.5, 0.5), most=10_000)
    want: list[tuple[Tensor, Tensor, float]] = []
    for text in TEXTS:
        base, both = tiny_lm.start(start_BT), LocalProduct(tiny_lm * teacher).start(start_BT)
        for token in tiny_lm.encode_text(" " + text):
            base_V, target_V = base.log_weight_BV[0].double(), both.log_weight_BV[0].double()
            kept = target_V > -torch.inf
            gain = float((target_V.exp() * (target_V - base_V))[kept].sum())
            want.append((base_V.exp(), target_V.exp() @ tiny_lm.unembedding_VD.double(), gain))
            base = tiny_lm.extend(base, torch.tensor([token]))
            both = LocalProduct(tiny_lm * teacher).extend(both, torch.tensor([token]))
    got = [item for side in (found, rest) for item in zip(side.prob_NV, side.target_ND, side.divergence_N, strict=True)]
    assert len(got) == len(want)
    total = sum(gain for _, _, gain in want)
    assert total > 1
    assert sum(float(gain) for _, _, gain in got) == pytest.approx(total, rel=1e-4)
    for part in (0, 1):
        mean, twin = (torch.stack([item[part].double() for item in items]).mean(0) for items in (got, want))
        torch.testing.assert_close(mean, twin, atol=1e-4, rtol=1e-4)


def test_no_text_is_both_learned_from_and_held_out(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    last_BD = _last_states(tiny_lm, TEXTS)
    for seed in range(3):
        sides = read_lessons(tiny_lm, make_head(0), TEXTS, (0.75, 0.25), most=10_000, seed=seed)
        in_train, in_held = ((last_BD[:, None] - side.hidden_ND).norm(dim=2).amin(1) < 1e-3 for side in sides)
        assert not (in_train & in_held).any()
        assert (int(in_train.sum()), int(in_held.sum())) == (22, 8)


def _last_states(lm: CausalLM, texts: list[str]) -> Tensor:
    rows = [[*lm.start_ids, *lm.encode_text(" " + text)][:-1] for text in texts]
    return torch.stack([lm.encode(torch.tensor([row])).hidden_BD[0] for row in rows])


def test_the_slope_is_the_slope(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    train, _ = read_lessons(tiny_lm, make_head(2), TEXTS, (0.5, 0.5))
    train = Lessons(train.hidden_ND, train.prob_NV.double(), train.target_ND.double(), train.divergence_N.double())
    bias_D = 0.3 * torch.randn(tiny_lm.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table_VD = tiny_lm.unembedding_VD.double()

    def value(bias_D: Tensor) -> Tensor:
        normalizer_N = (train.prob_NV.log() + table_VD @ bias_D).logsumexp(1)
        return (normalizer_N - train.target_ND @ bias_D).mean()

    exact = torch.autograd.functional.jacobian(value, bias_D)
    single = Lessons(*(t.float() for t in (train.hidden_ND, train.prob_NV, train.target_ND, train.divergence_N)))
    found, slope_D = cross_entropy(tiny_lm, bias_D, single)
    torch.testing.assert_close(slope_D, exact, atol=1e-5, rtol=1e-4)
    assert float(found) == pytest.approx(float(value(bias_D)), abs=1e-5)
    # And by differences, which know nothing of either formula.
    step = 1e-3
    for d in range(0, tiny_lm.width, 8):
        shift_D = torch.zeros_like(bias_D)
        shift_D[d] = step
        slope = (value(bias_D + shift_D) - value(bias_D - shift_D)) / (2 * step)
        assert float(slope_D[d]) == pytest.approx(float(slope), abs=1e-4)


def test_at_the_optimum_mean_embeddings_agree(tiny_lm: CausalLM) -> None:
    teacher = bind(lexicon({"good": 2.0, "river": 1.0}), tiny_lm)
    train, _ = read_lessons(tiny_lm, teacher, TEXTS, (0.75, 0.25))
    bias_D = fit_bias(tiny_lm, train, ridge=0.0)
    potential_V = tiny_lm.unembedding_VD @ bias_D
    student_NV = (train.prob_NV.log() + potential_V).softmax(1)
    torch.testing.assert_close(
        (student_NV @ tiny_lm.unembedding_VD).mean(0), train.target_ND.mean(0), atol=2e-3, rtol=0
    )
    assert float((train.prob_NV @ tiny_lm.unembedding_VD).mean(0).sub(train.target_ND.mean(0)).abs().max()) > 0.02


@pytest.mark.parametrize("rank", [0, 3])
def test_divergence_is_that_of_the_two_models(tiny_lm: CausalLM, make_head: MakeHead, rank: int) -> None:
    teacher, student = make_head(2, 5), make_head(rank, 6)
    _, held = read_lessons(tiny_lm, teacher, TEXTS, (0.5, 0.5))
    log_prob_NV = held.prob_NV.log()
    taught_NV, learned_NV = (
        (log_prob_NV + head.potential(held.hidden_ND)).log_softmax(1) for head in (teacher, student)
    )
    want = float((taught_NV.exp() * (taught_NV - learned_NV)).sum(1).mean())
    assert divergence_from(tiny_lm, student.weights, held) == pytest.approx(want, rel=1e-4)
    idle = HeadWeights.shift(torch.zeros(tiny_lm.width))
    assert divergence_from(tiny_lm, idle, held) == pytest.approx(float(held.divergence_N.mean()), rel=1e-4)


def test_a_map_that_does_not_help_is_left_out(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """The stopping lessons have another teacher, so that every epoch makes them worse."""
    train, _ = read_lessons(tiny_lm, make_head(2, 5), TEXTS, (0.5, 0.5))
    _, stop = read_lessons(tiny_lm, make_head(0, 6), TEXTS, (0.5, 0.5))
    bias_D = make_head(0, 6).weights.bias_D
    found = fit_map(tiny_lm, bias_D, train, stop, rank=2)
    torch.testing.assert_close(found.bias_D, bias_D)
    assert not found.up_DR.any()


def test_a_map_does_not_mind_where_states_lie(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """It reads them standardised, and is folded into numbers for plain states."""
    train, stop = read_lessons(tiny_lm, make_head(2, 5), TEXTS, (0.5, 0.5))
    moved = [replace(side, hidden_ND=3 * side.hidden_ND + 4) for side in (train, stop)]
    bias_D = fit_bias(tiny_lm, train)
    found, other = (fit_map(tiny_lm, bias_D, *sides, rank=2) for sides in ((train, stop), moved))
    assert found.up_DR.any()
    left = divergence_from(tiny_lm, found, stop)
    assert divergence_from(tiny_lm, other, moved[1]) == pytest.approx(left, rel=1e-2)
    assert left < 0.9 * divergence_from(tiny_lm, HeadWeights.shift(bias_D), stop)


def test_probabilities_in_memory_are_bounded(
    tiny_lm: CausalLM, make_head: MakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons_module, "MOST_BYTES", 4 * 55 * 100)
    train, held = read_lessons(tiny_lm, make_head(0), TEXTS, (0.75, 0.25))
    assert (len(train.prob_NV), len(held.prob_NV)) == (75, 25)
    assert train.prob_NV.untyped_storage().nbytes() <= 4 * 55 * 75


def test_half_the_texts_are_written_with_the_teacher(tiny_lm: CausalLM) -> None:
    teacher = bind(lexicon({"good": 6.0}), tiny_lm)
    texts = neutral_texts(tiny_lm, teacher)
    assert len(texts) == 80
    plain, steered = (sum(text.count("good") for text in part) for part in (texts[:40], texts[40:]))
    assert steered > plain + 50
    assert len(neutral_texts(tiny_lm, teacher, num_texts=12)) == 12


def test_a_text_ends_where_the_teacher_allows_nothing(tiny_lm: CausalLM) -> None:
    class Silence(Lexicon):
        """Allows nothing at all."""

        def _state(self, place_BT: Tensor) -> State:
            state = super()._state(place_BT)
            return State(torch.full_like(state.log_weight_BV, -torch.inf), state.memory)

        def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
            return torch.full(text_BT.shape, -torch.inf)

    teacher = Silence("silence", {"good": 1.0}, tiny_lm.vocabulary)
    texts = neutral_texts(tiny_lm, teacher, num_texts=10)
    assert all(len(text) < 40 for text in texts[5:])  # openings
    with pytest.raises(InputError, match="allows some next token"):
        read_lessons(tiny_lm, teacher, TEXTS, (0.5, 0.5))


def test_what_cannot_be_distilled_is_refused(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    idle = replace(make_head(0), weights=HeadWeights.shift(torch.zeros(tiny_lm.width)))
    with pytest.raises(InputError, match="changes what is written"):
        distil(tiny_lm, idle, Description("x"), most=100)
    with pytest.raises(InputError, match="at least 10 different texts are needed, got 2"):
        read_lessons(tiny_lm, make_head(0), ["a", "b", "a"], (0.5, 0.5))
    with pytest.raises(InputError, match="finite number other than 0, got nan"):
        distil(tiny_lm, make_head(0), Description("x"), exponent=float("nan"))
    with pytest.raises(InputError, match="rank from 0 to the width 32"):
        distil(tiny_lm, make_head(0), Description("x"), rank=33)


def test_texts_of_the_user_are_on_the_card(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    card = distil(tiny_lm, make_head(0), Description("x", licence="CC0-1.0"), texts=TEXTS * 2, most=240).manifest
    own, theirs = card.data.train
    assert own.num_texts == 10
    assert theirs.num_texts == 10
    assert theirs.licence == "CC0-1.0"


SEA = [
    "We walked along the beach and watched the ocean until evening.",
    "The captain of the ship gave orders to every sailor on board.",
    "A boat came into the harbour just before the storm began.",
    "My neighbour told me about his holiday, and I listened.",
    "The report says that trade across the sea has grown this year.",
    "He had been a sailor for ten years when he met her.",
    "The company announced that a new office would open in spring.",
    "In the morning, they went to the market to buy fish and bread.",
    "She looked at the book and put it back on the table.",
    "The museum shows an old ship that sank three hundred years ago.",
    "They were told to leave the boat and swim to the shore.",
    "Rain fell on the town, and nobody was in the street.",
]


@pytest.mark.model
def test_an_instruction_becomes_a_head_that_steers_its_way(lm: CausalLM) -> None:
    """Judged by the instruction itself, at states of other texts: its expected log ratio rises with the exponent."""
    teacher = bind(prompt("Write a very sad story about death and loss."), lm)
    train, held = read_lessons(lm, teacher, SEA, (0.75, 0.25))
    weights = HeadWeights.shift(fit_bias(lm, train))
    divergence = float(held.divergence_N.mean())
    assert divergence > 0.1
    assert divergence_from(lm, weights, held) < 0.95 * divergence
    states = neutral_states(lm)
    log_ratio_NV = teacher.start(states.prefix_NT[:16]).log_weight_BV
    potential_NV = lm.unembed(weights(states.hidden_ND[:16]))
    expected = []
    for exponent in (-0.5, 0.0, 0.5):
        steered_NV = (states.log_prob_NV[:16] + exponent * potential_NV).softmax(1)
        expected.append(float((steered_NV * log_ratio_NV).sum(1).mean()))
    assert expected[0] < expected[1] - 0.05
    assert expected[2] > expected[1] + 0.05


@pytest.mark.model
def test_a_word_list_becomes_a_head_that_knows_related_words(lm: CausalLM) -> None:
    teacher = bind(lexicon(dict.fromkeys(["ocean", "ship", "sailor", "captain", "harbour", "boat", "sea"], 4.0)), lm)
    train, held = read_lessons(lm, teacher, SEA, (0.75, 0.25))
    weights = HeadWeights.shift(fit_bias(lm, train))
    assert divergence_from(lm, weights, held) < 0.8 * float(held.divergence_N.mean())
    words = [word for word, _ in relatives(lm, weights, teacher, 40)]
    assert len({"ships", "sailors", "sailing", "boats", "naval", "vessel", "maritime"} & set(words)) >= 3
    assert "ocean" not in words  # that one was taught
    potential_V = lm.unembed(weights.bias_D)
    seas, desks = (
        potential_V[torch.tensor([lm.encode_text(" " + word)[0] for word in words])].mean()
        for words in (["ships", "naval", "boats", "sailing"], ["table", "pencil", "office", "chair"])
    )
    assert seas > desks + 0.5
