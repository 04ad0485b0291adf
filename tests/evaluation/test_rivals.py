"""Rivals on a tiny model: laws, closed forms, slow twins, and that nothing leaks into the base."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, Power, Product, laws, pad_left
from factorlm.evaluation.responses import Sample
from factorlm.evaluation.rivals import (
    ActivationSteering,
    DExperts,
    Fudge,
    GeDi,
    Kept,
    LMSteer,
    Prompting,
    Rival,
    activation,
    bounded,
    candidates,
    finetuning,
    fudge,
)
from factorlm.evaluation.rivals.activation import steered
from factorlm.evaluation.rivals.arithmetic import TextPosterior
from factorlm.evaluation.rivals.finetuning import FineTuning, fine_tuned, merged
from factorlm.evaluation.rivals.frontier import Point, at_price, difference_at_price, nearest_pair, undominated
from factorlm.evaluation.rivals.fudge import PrefixClassifier, PrefixPosterior, PrefixTraining
from factorlm.evaluation.rivals.gedi import Posterior
from factorlm.evaluation.rivals.kept import Checkpoint, Learned
from factorlm.evaluation.rivals.lm_steer import SteerTraining
from factorlm.factors.examples import Example, Split, split
from factorlm.inference.model import Model
from factorlm.models import CausalLM
from factorlm.models.progress import quiet

ROUNDING = 2e-4  # nats: float32 logits of several nats, in batches of other shapes
PREFIXES = [[7, 3], [14, 5, 9, 12]]  # the longer one is not the one that is trimmed less
TEXTS = [[4, 10, 3, 8], [11, 2, 6, 20]]
QUICK = FineTuning(rank=2, learning_rate=2e-2, epochs=2, batch_texts=4)


@pytest.fixture(scope="module")
def parts() -> Split:
    words = ["tea", "cake", "the dog", "a film", "the food", "my room", "this game", "a song", "her book", "his car"]
    endings = ["", " now", " here", " today"]
    examples = [
        Example(f"{word} is {'good' if is_good else 'bad'}{end}.", is_good)
        for word in words
        for end in endings
        for is_good in (True, False)
    ]
    return split(examples)


def random_change(lm: CausalLM, seed: int) -> dict[str, Tensor]:
    """A low-rank change of every query and value projection, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    change = {}
    for path, layer in finetuning._targets(lm.model):
        width_out, width_in = layer.weight.shape
        change[f"{path}.up"] = 0.5 * torch.randn(width_out, 2, generator=generator)
        change[f"{path}.down"] = 0.5 * torch.randn(2, width_in, generator=generator)
    return change


@pytest.fixture(scope="module")
def experts(tiny_lm: CausalLM) -> tuple[CausalLM, CausalLM]:
    first, second = (merged(tiny_lm, random_change(tiny_lm, seed), QUICK, f"expert {seed}") for seed in (1, 2))
    return first, second


def prefix_classifier(width: int) -> PrefixClassifier:
    generator = torch.Generator().manual_seed(5)
    return PrefixClassifier(
        {
            "mean": torch.zeros(width),
            "deviation": torch.ones(width),
            "down": torch.randn(8, width, generator=generator),
            "bias": torch.zeros(8),
            "up": torch.randn(8, generator=generator),
            "prior": torch.tensor(0.3),
        }
    )


def letters_counted(texts: list[str]) -> Tensor:
    """A classifier that likes the letter o and dislikes spaces."""
    return torch.tensor([0.7 * text.count("o") - 0.4 * text.count(" ") - 0.01 * len(text) for text in texts])


@pytest.fixture(params=["posterior", "absence", "contrast", "prefixes", "texts", "activation", "prompt", "map"])
def factor(
    request: pytest.FixtureRequest, tiny_lm: CausalLM, experts: tuple[CausalLM, CausalLM], parts: Split
) -> Factor:
    match request.param:
        case "posterior":
            return Posterior(*experts, 2.0, -0.3, 1)
        case "absence":
            return Power(Posterior(*experts, 2.0, -0.3, -1), 5.0)
        case "contrast":
            return experts[0] / experts[1]
        case "prefixes":
            return PrefixPosterior(tiny_lm, 6, classifier=prefix_classifier(tiny_lm.width))
        case "texts":
            return TextPosterior(tiny_lm, 6, log_odds=letters_counted, sign=-1)
        case "activation":
            return steered(tiny_lm, 0, torch.linspace(-1, 1, tiny_lm.width))
        case "prompt":
            return Prompting("p", "be good", "be bad").prepare(tiny_lm, parts, Kept(None)).factor(1.5)
        case _:
            return LMSteer(SteerTraining(tokens=64, epochs=1)).prepare(tiny_lm, parts, Kept(None)).factor(2.0)


def test_rivals_obey_the_laws(factor: Factor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "REMEMBERED", 0)  # else a row alone would only be looked up
    laws.check(factor, PREFIXES, TEXTS, tolerance=ROUNDING)
    assert not any(getattr(factor, "known", {}))


def test_what_candidates_remember_is_what_they_found(tiny_lm: CausalLM) -> None:
    looked = []

    def counted(texts: list[str]) -> Tensor:
        looked.extend(texts)
        return letters_counted(texts)

    factor = TextPosterior(tiny_lm, 6, log_odds=counted)
    prefix_BT = pad_left(PREFIXES)
    first = factor.start(prefix_BT)
    num_looked = len(looked)
    assert num_looked == 2 * 7
    second = factor.start(prefix_BT)
    assert len(looked) == num_looked
    torch.testing.assert_close(second.log_weight_BV, first.log_weight_BV, rtol=0, atol=0)


def test_candidates_weigh_the_likeliest_tokens_by_the_text_they_make(tiny_lm: CausalLM) -> None:
    factor = TextPosterior(tiny_lm, 6, log_odds=letters_counted, most=0.5)
    prefix = PREFIXES[0]
    found_V = factor.start(torch.tensor([prefix])).log_weight_BV[0]
    likeliest = tiny_lm.start(torch.tensor([prefix])).log_weight_BV[0].topk(6).indices.tolist()

    def log_class(tokens: list[int]) -> float:
        odds = float(letters_counted([tiny_lm.vocabulary.decode(tokens).decode("utf-8", "replace")])[0])
        return -math.log1p(math.exp(-odds))

    for token in range(tiny_lm.vocabulary.size):
        change = log_class([*prefix, token]) - log_class(prefix) if token in likeliest else 0.0
        assert float(found_V[token]) == pytest.approx(min(0.5, max(-0.5, change)), abs=1e-5)


def test_states_of_candidates_are_those_of_reading_them(tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiny_lm.start(pad_left([*PREFIXES, [0, 3, 3]]))
    state = tiny_lm.extend(state, torch.tensor([4, 5, 6]))
    candidate_BK = torch.tensor([[3, 9, 12, 7], [8, 3, 2, 40], [30, 31, 4, 4]])
    for together in (1024, 4):
        monkeypatch.setattr(candidates, "FORWARD_TOKENS", together)
        hidden_BKD = candidates.states_after(tiny_lm, state.memory, candidate_BK)
        for k, token_B in enumerate(candidate_BK.unbind(1)):
            plain_BD = tiny_lm.extend(state, token_B).memory.hidden_BD
            torch.testing.assert_close(hidden_BKD[:, k], plain_BD, atol=1e-5, rtol=1e-5)


def test_posterior_is_bayes_rule_with_length_normalisation(experts: tuple[CausalLM, CausalLM]) -> None:
    scale, prior, prefix, text = 3.0, -0.5, PREFIXES[0], [4, 10]
    factor = Posterior(*experts, scale, prior, 1)
    state = factor.start(torch.tensor([prefix]))
    for token in text:
        state = factor.extend(state, torch.tensor([token]))
    for token in (3, 8, 21):
        whole_BT = torch.tensor([[*text, token]])
        plus, minus = (float(e.score(torch.tensor([prefix]), whole_BT).sum()) for e in experts)
        likelihood = [math.exp(scale / 3 * plus + prior), math.exp(scale / 3 * minus)]
        assert float(state.log_weight_BV[0, token]) == pytest.approx(
            math.log(likelihood[0] / sum(likelihood)), abs=ROUNDING
        )


def test_a_change_of_nothing_is_the_base_and_any_change_leaves_the_base_alone(tiny_lm: CausalLM) -> None:
    before = {name: weight.clone() for name, weight in tiny_lm.model.state_dict().items()}
    prefix_BT = torch.tensor([PREFIXES[0]])
    base_BV = tiny_lm.start(prefix_BT).log_weight_BV
    nothing = {name: torch.zeros_like(tensor) for name, tensor in random_change(tiny_lm, 0).items()}
    same = merged(tiny_lm, nothing, QUICK, "same")
    torch.testing.assert_close(same.start(prefix_BT).log_weight_BV, base_BV, atol=1e-6, rtol=0)
    other = merged(tiny_lm, random_change(tiny_lm, 1), QUICK, "other")
    moved = steered(tiny_lm, 1, torch.ones(tiny_lm.width))
    for changed in (other, moved):
        assert float((changed.start(prefix_BT).log_weight_BV - base_BV).abs().max()) > 0.1
    tiny_lm.forget()
    torch.testing.assert_close(tiny_lm.start(prefix_BT).log_weight_BV, base_BV, atol=1e-6, rtol=0)
    after = tiny_lm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    shared = dict(other.model.named_parameters())["model.layers.0.mlp.up_proj.weight"]
    assert shared.data_ptr() == dict(tiny_lm.model.named_parameters())["model.layers.0.mlp.up_proj.weight"].data_ptr()


def test_the_vector_is_added_behind_its_layer(tiny_lm: CausalLM) -> None:
    vector_D = torch.linspace(-2, 2, tiny_lm.width)
    token_BT = torch.tensor([PREFIXES[0]])
    with torch.no_grad():
        plain, moved = (
            lm.model.base_model(input_ids=token_BT, output_hidden_states=True).hidden_states
            for lm in (tiny_lm, steered(tiny_lm, 0, vector_D))
        )
    torch.testing.assert_close(moved[0], plain[0])  # the embeddings
    torch.testing.assert_close(moved[1], plain[1] + vector_D)


def test_one_twin_serves_every_vector(tiny_lm: CausalLM) -> None:
    """Even while somebody holds what it read under another one."""
    steerable, prefix_BT = activation.Steerable(tiny_lm, 0), torch.tensor([PREFIXES[1] * 6])
    held = []
    for scale in (1.0, -2.0, 0.0):
        vector_D = scale * torch.linspace(-1, 1, tiny_lm.width)
        held.append(steerable.by(vector_D).start(prefix_BT))
        want_BV = steered(tiny_lm, 0, vector_D).start(prefix_BT).log_weight_BV
        torch.testing.assert_close(held[-1].log_weight_BV, want_BV, atol=1e-6, rtol=0)


def test_fine_tuning_likes_its_texts_and_goes_on_where_it_broke(
    tiny_lm: CausalLM, parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "CHECKPOINT_STEPS", 3)
    texts = [e.text for e in parts.train if e.is_positive]
    tuned, whole = fine_tuned(tiny_lm, texts, QUICK, name="good texts", kept=Kept(None))

    class StoppedError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done == 8:
            raise StoppedError

    kept = Kept(tmp_path)
    with pytest.raises(StoppedError):
        fine_tuned(tiny_lm, texts, QUICK, name="good texts", kept=kept, report=stop)
    steps = []
    _, resumed = fine_tuned(
        tiny_lm, texts, QUICK, name="good texts", kept=kept, report=lambda stage, done, total: steps.append(done)
    )
    assert steps[0] == 7, "the checkpoint after step 6 was not used"
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(resumed.tensors[name], tensor, atol=1e-6, rtol=0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    _, again = fine_tuned(tiny_lm, texts, QUICK, name="good texts", kept=kept)
    assert again.seconds == pytest.approx(resumed.seconds)
    token_BT = torch.tensor([tiny_lm.encode_text(" tea is good")])
    start_BT = torch.tensor([tiny_lm.start_ids])
    assert float(tuned.score(start_BT, token_BT).sum()) > float(tiny_lm.score(start_BT, token_BT).sum()) + 1


def good_and_bad(lm: CausalLM) -> tuple[list[int], int, int]:
    """A beginning, and the tokens that follow it in texts of each class."""
    good, bad = lm.encode_text(" good"), lm.encode_text(" bad")
    assert len(good) == len(bad) == 1
    return [*lm.start_ids, *lm.encode_text(" the food is")], good[0], bad[0]


@pytest.mark.parametrize(
    "rival",
    [
        DExperts(QUICK),
        GeDi(QUICK),
        LMSteer(SteerTraining(learning_rate=1e-2, tokens=64, epochs=3)),
        Fudge(PrefixTraining(learning_rate=1e-2, epochs=20, batch=64), num_candidates=55),
        ActivationSteering(depths=(0.5,)),
    ],
    ids=lambda rival: rival.name,
)
def test_the_dial_moves_the_model_towards_the_attribute_and_away(
    rival: Rival, tiny_lm: CausalLM, parts: Split, tmp_path: Path
) -> None:
    prepared = rival.prepare(tiny_lm, parts, Kept(tmp_path), quiet)
    assert prepared.num_parameters > 0
    assert prepared.seconds > 0
    prefix, good, bad = good_and_bad(tiny_lm)

    def preference(dial: float) -> float:
        log_prob_V = LocalProduct(prepared.composed(dial).model.factor).start(torch.tensor([prefix])).log_weight_BV[0]
        return float(log_prob_V[good] - log_prob_V[bad])

    assert preference(-2.0) < preference(0.0) < preference(2.0)
    again = rival.prepare(tiny_lm, parts, Kept(tmp_path), quiet)
    assert (again.settings, again.seconds) == (prepared.settings, prepared.seconds)
    assert again.composed(2.0).fingerprint == prepared.composed(2.0).fingerprint
    assert len({prepared.composed(dial).fingerprint for dial in (-1.0, 0.0, 1.0, 2.0)}) == 4


def test_a_steered_model_keeps_its_base(tiny_lm: CausalLM, parts: Split, experts: tuple[CausalLM, CausalLM]) -> None:
    rival = Prompting("p", "be good", "be bad").prepare(tiny_lm, parts, Kept(None))
    composed = rival.composed(2.0)
    response = composed.model.generate("the food", max_tokens=6)[0]
    token_BT = torch.tensor([response.token_ids])
    base = float(tiny_lm.score(torch.tensor([response.prompt_ids]), token_BT).sum())
    assert response.base_log_prob == pytest.approx(base, abs=1e-3)
    assert response.log_prob != pytest.approx(base, abs=1e-2)
    at_zero = rival.composed(0.0).model.generate("the food", max_tokens=6)[0]
    assert at_zero.token_ids == Model(tiny_lm, tiny_lm).generate("the food", max_tokens=6)[0].token_ids


def test_prompting_at_one_is_the_instruction_read_first(tiny_lm: CausalLM, parts: Split) -> None:
    plain = Prompting("p", "be good", "be bad").prepare(tiny_lm, parts, Kept(None))
    against = Prompting("q", "be good", "be bad", subtracts=True).prepare(tiny_lm, parts, Kept(None))
    prefix = [*tiny_lm.start_ids, *tiny_lm.encode_text("the food")]

    def after(instruction: str) -> Tensor:
        read = [*tiny_lm.start_ids, *tiny_lm.encode_text(instruction + "\n\n"), *tiny_lm.encode_text("the food")]
        return tiny_lm.start(torch.tensor([read])).log_weight_BV

    def of(factor: Factor) -> Tensor:
        return LocalProduct(factor).start(torch.tensor([prefix])).log_weight_BV

    base_BV = tiny_lm.start(torch.tensor([prefix])).log_weight_BV
    torch.testing.assert_close(of(plain.composed(1.0).model.factor), after("be good"), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(of(plain.composed(-1.0).model.factor), after("be bad"), atol=ROUNDING, rtol=0)
    want_BV = (2 * base_BV - after("be bad")).log_softmax(-1)
    torch.testing.assert_close(of(against.composed(1.0).model.factor), want_BV, atol=ROUNDING, rtol=0)


def test_an_instruction_can_be_a_message(tiny_lm: CausalLM, parts: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the model's chat template, whose start token is not read twice."""
    monkeypatch.setattr(tiny_lm, "encode_message", lambda text: [*tiny_lm.start_ids, 5, len(text), 6])
    prepared = Prompting("p", "be good", "be bad", is_message=True).prepare(tiny_lm, parts, Kept(None))
    text = tiny_lm.encode_text("the food")
    got_BV = LocalProduct(prepared.composed(1.0).model.factor).start(torch.tensor([[*tiny_lm.start_ids, *text]]))
    want_BV = tiny_lm.start(torch.tensor([[*tiny_lm.start_ids, 5, 7, 6, *text]])).log_weight_BV
    torch.testing.assert_close(got_BV.log_weight_BV, want_BV, atol=ROUNDING, rtol=0)
    plain = Prompting("p", "be good", "be bad").prepare(tiny_lm, parts, Kept(None))
    assert plain.settings != prepared.settings


def test_lm_steer_is_the_map_before_the_unembedding(tiny_lm: CausalLM, parts: Split) -> None:
    prepared = LMSteer(SteerTraining(learning_rate=1e-2, tokens=64)).prepare(tiny_lm, parts, Kept(None))
    assert prepared.num_parameters == tiny_lm.width**2
    map_DD = prepared.factor(1.0).base.weights.up_DR  # type: ignore[attr-defined]
    prefix_BT = torch.tensor([PREFIXES[0]])
    hidden_BD = tiny_lm.encode(prefix_BT).hidden_BD
    want_BV = tiny_lm.unembed(hidden_BD + 1.5 * hidden_BD @ map_DD.T).log_softmax(-1)
    got_BV = LocalProduct(Product((tiny_lm, prepared.factor(1.5)))).start(prefix_BT).log_weight_BV
    torch.testing.assert_close(got_BV, want_BV, atol=ROUNDING, rtol=0)


def test_the_layer_is_the_one_that_controls_most(
    tiny_lm: CausalLM, parts: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = {0: 0.1}
    monkeypatch.setattr(activation, "_num_layers", lambda lm: 4)  # two layers give no choice
    monkeypatch.setattr(activation, "_mean_states", lambda lm, examples, report: torch.ones(4, lm.width))
    monkeypatch.setattr(activation, "_control", lambda lm, layer, *rest: control.get(layer, 0.3 - 0.1 * layer))
    rival = ActivationSteering(depths=(0.25, 0.5, 0.75), judge=lambda texts: [True] * len(texts))
    learned = rival._learn(tiny_lm, parts, parts, Checkpoint(None), quiet)
    assert int(learned.tensors["layer"]) == 1


def test_sizes_are_matched_in_divergence() -> None:
    for slope in (0.01, 3.0):
        size = activation._matched_size(lambda x, slope=slope: slope * x * x)
        assert slope * size * size == pytest.approx(activation.MATCHED, rel=0.05)


def test_what_is_kept_is_learned_once_and_damage_is_noticed(tmp_path: Path) -> None:
    made = []

    def make(checkpoint: Checkpoint) -> Learned:
        made.append(1)
        return Learned({"x": torch.arange(3.0)}, 2.5)

    kept = Kept(tmp_path)
    for _ in range(2):
        found = kept.get("numbers", {"a": 1}, make)
        assert (found.tensors["x"].tolist(), found.seconds) == ([0.0, 1.0, 2.0], 2.5)
    assert len(made) == 1
    kept.get("numbers", {"a": 2}, make)
    assert len(made) == 2
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    kept.get("numbers", {"a": 1}, make)
    assert len(made) == 3
    Kept(None).get("numbers", {"a": 1}, make)
    assert len(made) == 4


def test_texts_are_bounded_by_class(parts: Split) -> None:
    few = bounded(parts, 10)
    assert [sum(e.is_positive == c for e in few.train) for c in (True, False)] == [10, 10]
    assert [sum(e.is_positive == c for e in few.dev) for c in (True, False)] == [2, 2]
    assert set(few.train) <= set(parts.train)


# The frontier

KEY = ("positive texts", "judge")


def point(method: str, dial: float, scores: list[float], nats: list[float]) -> Point:
    """Ten tokens to a prompt."""
    samples = [[Sample("a b c d", tuple(range(10)), -n, -n, "length")] for n in nats]
    return Point(method, dial, samples, {KEY: np.array(scores)})


def test_scores_at_a_price_by_hand() -> None:
    prompts = 12
    base = point("base", 0, [0.5] * prompts, [20.0] * prompts)
    weak = point("a", 1, [0.6] * prompts, [20 + 10 * math.log(1.1)] * prompts)
    strong = point("a", 2, [0.9] * prompts, [20 + 10 * math.log(1.4)] * prompts)
    assert weak.price(base).value == pytest.approx(1.1)
    assert at_price([weak, strong], base, KEY, 1.05).value == pytest.approx(0.55)
    assert at_price([weak, strong], base, KEY, 1.2).value == pytest.approx(0.6 + 0.3 / 3)
    assert at_price([weak, strong], base, KEY, 1.5).value is None
    other = point("b", 1, [0.5, 0.9] * (prompts // 2), [20 + 10 * math.log(1.4)] * prompts)
    found = difference_at_price([weak, strong], [other], base, KEY, 1.2)
    assert found.value == pytest.approx(0.7 - 0.6)
    assert found.low is not None
    assert found.low < 0.1 < found.high


def test_settings_are_paired_near_a_fixed_price() -> None:
    """Not where two dials happen to cost the same: that may be at the base, or far beyond."""
    base = point("base", 0, [0.5] * 4, [20.0] * 4)
    cheap, dear = (point("a", d, [0.6] * 4, [20 + 10 * math.log(p)] * 4) for d, p in ((1, 1.25), (2, 3.0)))
    low, same = (point("b", d, [0.7] * 4, [20 + 10 * math.log(p)] * 4) for d, p in ((1, 1.1), (2, 3.0)))
    nobody = point("c", 1, [0.7] * 4, [math.nan] * 4)
    assert nearest_pair([cheap, dear], [low, same], base, 1.2) == (cheap, low)
    assert nearest_pair([cheap, dear], [low, same], base, 2.5) == (dear, same)
    assert nearest_pair([cheap, dear], [nobody, low], base, 1.2) == (cheap, low)
    assert nearest_pair([cheap, dear], [nobody], base, 1.2) is None


def test_a_price_that_is_often_not_reached_has_no_interval() -> None:
    base = point("base", 0, [0.5] * 12, [20.0] * 12)
    uneven = [20 + 20 * math.log(1.3), 20.0] * 6  # 1.3 in the mean, less in about half of the resamples
    end = point("a", 1, [0.9] * 12, uneven)
    found = at_price([end], base, KEY, 1.28)
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    gap = difference_at_price([end], [end], base, KEY, 1.28)
    assert (gap.value, gap.low) == (0, None)
    assert at_price([end], base, KEY, 1.02).low is not None


def test_prompts_without_words_do_not_count() -> None:
    base = point("base", 0, [0.5, math.nan], [20.0, 20.0])
    end = point("a", 1, [1.0, math.nan], [20 + 10 * math.log(1.5)] * 2)
    assert at_price([end], base, KEY, 1.25).value == pytest.approx(0.75)


def test_the_frontier_is_what_nothing_beats() -> None:
    values = [(1.0, 0.6), (1.2, 0.8), (1.3, 0.8), (1.1, 0.7), (1.4, 0.9), (1.2, 0.75)]
    assert undominated(values, lower_is_better=False) == [True, True, False, True, True, False]
    assert undominated([(1.0, 0.6), (1.2, 0.3), (1.3, 0.5)], lower_is_better=True) == [True, True, False]
    nan = math.nan
    found = undominated([(nan, 0.9), (1.2, nan), (1.1, 0.5), (nan, nan)], lower_is_better=False)
    assert found == [False, False, True, False], "what has no number is on no frontier"


def test_varied_texts_have_more_distinct_runs() -> None:
    texts = ["one two three four five", "one two three four five", "six seven eight nine ten"]
    samples = [[Sample(text, (1, 2), -1.0, -1.0, "length")] for text in texts]
    found = Point("a", 1, samples, {}).distinct_3(5, 1)
    assert found.value == pytest.approx(6 / 9)


def test_classifier_of_prefixes_learns_a_planted_direction(tiny_lm: CausalLM) -> None:
    from factorlm.evaluation.rivals.states import LabelledStates
    from factorlm.factors.features import Features

    generator = torch.Generator().manual_seed(0)

    def planted(num_texts: int) -> LabelledStates:
        label_B = (torch.rand(num_texts, generator=generator) < 0.5).float()
        hidden_ND = torch.randn(4 * num_texts, 16, generator=generator)
        owner_N = torch.arange(num_texts).repeat_interleave(4)
        hidden_ND[:, 3] += 4 * label_B[owner_N]
        return LabelledStates(Features(hidden_ND.half(), torch.zeros(4 * num_texts).long(), owner_N), label_B, 0.0)

    learned = fudge._train(planted(300), planted(100), PrefixTraining(num_units=8, learning_rate=1e-2, batch=64), quiet)
    fresh = planted(100)
    odds_N = PrefixClassifier(learned.tensors)(fresh.features.hidden_ND)
    assert float(((odds_N > 0) == (fresh.label_N > 0)).float().mean()) > 0.9
