"""A prior over meanings as a language model, on a tiny model: what is drawn, scored, multiplied and tilted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from factorlm.algebra import LocalProduct, Mixture, Power, Product, pad_left, pad_right
from factorlm.diffusion import (
    BiasLearning,
    Collection,
    DenoiserLearning,
    Denoising,
    LatentParticles,
    LinearGuide,
    Meanings,
    MeaningsFitting,
    Proposing,
    SoftLearning,
    WindowSettings,
    fit_meanings,
)
from factorlm.diffusion.decoders import PlanSettings
from factorlm.diffusion.denoiser import DenoiserSettings
from factorlm.errors import InputError, UnknownNameError
from factorlm.factors.head import Head
from factorlm.inference import GuidedPrior, Model
from factorlm.models import CausalLM

WORDS = ("good", "bad", "cat", "tree")
TEXTS = [  # behind a cat comes good three times out of five, behind a tree bad
    f"the {'cat' if n % 2 else 'tree'} is in a {'abcdefgh'[n % 8]} "
    + " ".join(["good" if (n % 2 == 1) != (n % 5 < 2) else "bad"] * 2)
    + f" {'klmnopqrstuvw'[n // 13]}{'klmnopqrstuvw'[n % 13]}"
    for n in range(160)
]
SETTINGS = MeaningsFitting(
    windows=WindowSettings(prefix=(3, 12), continuation=(4, 16), sentences=1), most=100, decoded=60, held_out=10,
    denoiser=DenoiserLearning(network=DenoiserSettings(width=32, blocks=2, waves=4), steps=300, batch=64, rising=20,
                              learning_rate=3e-3, kept=0.98),
    bias=BiasLearning(steps=60, batch=64, rising=5, learning_rate=3e-2, kept=0.9),
    soft=SoftLearning(plan=PlanSettings(places=2, narrow=8, layers=1, heads=4), steps=60, batch=16, rising=5,
                      learning_rate=1e-2, kept=0.9),
)  # fmt: skip
PROMPT, OTHER = "the cat is", "the tree is in"
KINDS = pytest.mark.parametrize("kind", ["soft", "bias"])
Make = Callable[..., Head]


def encode(texts: Sequence[str]) -> Tensor:
    """Counts of four words, and a fixed bit of noise that depends on the text."""
    rows = []
    for text in texts:
        noise_D = 0.3 * torch.randn(6, generator=torch.Generator().manual_seed(sum(map(ord, text)) + len(text)))
        rows.append(noise_D + torch.tensor([float(text.split().count(word)) for word in WORDS] + [1.0, 1.0]))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


@pytest.fixture(scope="module")
def meanings(tiny_lm: CausalLM) -> Meanings:
    return fit_meanings(tiny_lm, encode, TEXTS, SETTINGS)[0]


@pytest.fixture
def prior(meanings: Meanings) -> GuidedPrior:
    guides = {
        "glad": LinearGuide(6 * torch.tensor([1.0, -1.0, 0, 0, 0, 0]), 0.0, meanings.after),
        "feline": LinearGuide(6 * torch.tensor([0.0, 0, 1.0, -1.0, 0, 0]), 0.0, meanings.after),
    }
    model = Model(meanings.lm, meanings.lm)
    return GuidedPrior(model, meanings, guides, {"glad": 4.0, "feline": 0.0}, Proposing(), "bias")


@KINDS
def test_a_batch_is_its_rows_one_by_one(prior: GuidedPrior, kind: str) -> None:
    prior = replace(prior, decoder=kind)
    together = prior.sample([PROMPT, OTHER], n=3, max_tokens=6, seed=1)
    alone = [*prior.sample(PROMPT, n=3, max_tokens=6, seed=1), *prior.sample(OTHER, n=3, max_tokens=6, seed=1)]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.log_prob for r in together] == pytest.approx([r.log_prob for r in alone], abs=1e-3)
    fewer = prior.sample(OTHER, n=1, max_tokens=6, seed=1)
    assert fewer[0].token_ids == together[3].token_ids
    assert {r.token_ids for r in prior.sample(PROMPT, n=3, max_tokens=6, seed=2)} != {r.token_ids for r in alone[:3]}


@KINDS
def test_strength_zero_is_no_guide(prior: GuidedPrior, kind: str) -> None:
    prior = replace(prior, decoder=kind, strengths={"glad": 0.0, "feline": 0.0})
    without = replace(prior, guides={}, strengths={})
    one, other = (p.sample(PROMPT, n=4, max_tokens=6) for p in (prior, without))
    assert [(r.token_ids, r.log_prob) for r in one] == [(r.token_ids, r.log_prob) for r in other]


def test_guides_lean_and_the_plan_tells(prior: GuidedPrior) -> None:
    shares = {}
    prior = replace(prior, meanings=replace(prior.meanings, heed={}))
    for strength in (-4.0, 0.0, 4.0):
        found = replace(prior, strengths={"glad": strength, "feline": 0.0}).sample(PROMPT, n=60, max_tokens=1)
        plans = [r.plan for r in found if r.plan]
        assert len(plans) == 60
        shares[strength] = sum(plan.planned[0] for plan in plans) / 60
        assert all(len(plan.probs) == Proposing().denoising.steps for plan in plans)
        assert plans[0].probs[-1][0] == pytest.approx(plans[0].planned[0], abs=0.1)  # but for the length of vectors
    assert shares[-4.0] < shares[0.0] - 0.1 < shares[4.0] - 0.2


def test_guides_are_of_what_will_be_written(prior: GuidedPrior) -> None:
    """A decoder that heeds latents by half moves a logit by half, from that of the mean sentence on."""
    after, guide = prior.meanings.after, prior.guides["glad"]
    latent_BD = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    mean_D = torch.nn.functional.normalize(after.mean_D, dim=0)
    middle = float(mean_D @ guide.weight_D + guide.bias)
    logit_B = guide.log_prob(latent_BD).exp().logit()
    half = guide.heeded(0.5)
    torch.testing.assert_close(half.log_prob(latent_BD).exp().logit(), middle + 0.5 * (logit_B - middle))
    torch.testing.assert_close(half.opposite.log_prob(latent_BD).exp(), 1 - half.log_prob(latent_BD).exp())
    torch.testing.assert_close(guide.heeded(1.0).log_prob(latent_BD), guide.log_prob(latent_BD))
    logits = {}
    for heed in (1.0, 0.2):
        led = replace(
            prior, meanings=replace(prior.meanings, heed={"bias": heed}), strengths={"glad": 30.0, "feline": 0.0}
        )
        plans = [r.plan for r in led.sample(PROMPT, n=40, max_tokens=0)]
        logits[heed] = sum(torch.tensor(p.planned[0]).logit().clamp(-20, 20) for p in plans if p) / 40
    assert logits[0.2] > logits[1.0] + 0.5  # a plan that is heeded less is not yet sure enough, and goes farther


def test_plans_tell_what_became_of_them(prior: GuidedPrior) -> None:
    collection = Collection.of(TEXTS, encode(TEXTS), 30, 0)
    prior = replace(prior, meanings=replace(prior.meanings, collection=collection))
    [response] = prior.sample(PROMPT, max_tokens=8, seed=3)
    plan = response.plan
    assert plan is not None
    [vector_D] = encode([response.text.strip()])
    glad = float(prior.guides["glad"].log_prob(prior.meanings.after.latent(vector_D[None])).exp())
    assert plan.written[0] == pytest.approx(glad, abs=1e-5)
    assert plan.likeness is not None
    assert -1 <= plan.likeness <= 1
    assert [cosine for _, cosine in plan.nearest] == sorted((c for _, c in plan.nearest), reverse=True)
    assert {text for text, _ in plan.nearest} <= set(TEXTS)
    assert len(plan.bars(0)) == 20
    assert plan.as_json()["guides"]["glad"]["planned"] == plan.planned[0]
    [nothing] = prior.sample(PROMPT, max_tokens=0)
    assert nothing.plan is not None
    assert (nothing.plan.written, nothing.plan.likeness) == ((), None)


@KINDS
@pytest.mark.parametrize("emphasis", [1.0, 1.7])
def test_the_plan_apart_is_the_same_law(prior: GuidedPrior, make_head: Make, kind: str, emphasis: float) -> None:
    """With the plan as a factor of its own, and, for biases, as a longer bias."""
    prior = replace(prior, decoder=kind, emphasis=emphasis) * make_head(2) ** 0.5
    whole, _ = prior.planned(PROMPT, n=3)
    apart, _ = prior.planned(PROMPT, n=3, apart=True)
    texts = prior.model.lm.encode_text(" good cat in a tree")
    rows = pad_left([[0, *prior.model.lm.encode_text(PROMPT)]] * 3), pad_right([texts] * 3)
    found = [LocalProduct(model.factor).score(*rows) for model in (whole, apart)]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    decoder = replace(prior, model=Model(prior.model.lm, prior.model.lm), emphasis=1.0).planned(PROMPT, n=3)[0].factor
    lm = prior.model.lm
    by_hand = Product((Power(decoder, emphasis), Power(lm, 1 - emphasis), Power(make_head(2), 0.5)))
    torch.testing.assert_close(LocalProduct(by_hand).score(*rows), found[0], atol=1e-4, rtol=1e-4)


def test_explanations_add_up(prior: GuidedPrior, make_head: Make) -> None:
    [response] = (prior * make_head(2)).sample(PROMPT, max_tokens=6, explain=True)
    explanation = response.explanation
    assert explanation is not None
    assert explanation.names == ("plan", "head2-0")
    for i, total in enumerate(explanation.log_probs):
        parts = explanation.base_log_probs[i] + sum(explanation.contributions[i]) - explanation.normalizers[i]
        assert total == pytest.approx(parts, abs=1e-3)


@KINDS
def test_the_bound_is_the_mean_over_latents(prior: GuidedPrior, make_head: Make, kind: str) -> None:
    prior = replace(prior, decoder=kind) * make_head(1)
    texts = [" good cat", " a bad tree in"]
    found = prior.score(texts, prompt=PROMPT, latents=20, seed=5)
    model, _ = prior.planned(PROMPT, n=20, seed=5)
    for text, bound in zip(texts, found, strict=True):
        row = prior.model.lm.encode_text(text)
        prefix_BT = pad_left([[0, *prior.model.lm.encode_text(PROMPT)]] * 20)
        each_K = LocalProduct(model.factor).score(prefix_BT, pad_right([row] * 20)).double().sum(1)
        assert bound.log_prob == pytest.approx(float(each_K.logsumexp(0)) - math.log(20), abs=1e-3)
        assert 1 <= bound.effective <= 20
        assert bound.num_tokens == len(row)
        assert bound.base_log_prob == pytest.approx(prior.model.score(text, prompt=PROMPT)[0].log_prob, abs=1e-4)
    one_by_one = [prior.score(text, prompt=PROMPT, latents=20, seed=5)[0].log_prob for text in texts]
    assert one_by_one == pytest.approx([bound.log_prob for bound in found], abs=1e-3)
    mute = replace(prior, decoder="bias", emphasis=0.0).score(texts, prompt=PROMPT, latents=3)
    assert [b.log_prob for b in mute] == pytest.approx([b.base_log_prob for b in mute], abs=1e-4)


def test_the_bound_rises_with_latents(prior: GuidedPrior) -> None:
    """Its mean over seeds, as Jensen says, for a text that some latents like much better than others."""
    text = " good good"
    few, many = ([prior.score(text, prompt=PROMPT, latents=k, seed=s)[0].log_prob for s in range(12)] for k in (1, 16))
    assert sum(many) > sum(few)


def test_particles_draw_plans_too(prior: GuidedPrior) -> None:
    exact = replace(prior, proposing=Proposing(denoising=Denoising(steps=12), particles=LatentParticles(number=8)))
    together = exact.sample([PROMPT, OTHER], n=2, max_tokens=4)
    assert [r.token_ids for r in exact.sample(OTHER, n=2, max_tokens=4)] == [r.token_ids for r in together[2:]]
    assert all(r.plan is not None and r.plan.probs == () for r in together)


def test_tilting_adds_up(prior: GuidedPrior) -> None:
    found = prior.tilt({"glad": 2.0, "feline": -3.0})
    assert found.strengths == {"glad": 6.0, "feline": -3.0}
    assert prior.strengths == {"glad": 4.0, "feline": 0.0}
    with pytest.raises(UnknownNameError, match="guide train"):
        prior.tilt({"no-such-guide": 1.0})
    with pytest.raises(InputError, match="finite strength"):
        prior.tilt({"glad": math.inf})
    with pytest.raises(InputError, match="meanings with sentences"):
        replace(prior, meanings=replace(prior.meanings, collection=None)).tilt({"topic:sports": 1.0})


def test_what_cannot_be_guided(prior: GuidedPrior, tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="begins with the language model"):
        replace(prior, model=Model(Mixture((tiny_lm, tiny_lm), (0.5, 0.5)), tiny_lm))
    with pytest.raises(InputError, match="at least one prompt"):
        prior.sample([], n=1)
    with pytest.raises(InputError, match="at least one latent"):
        prior.score("a", prompt=PROMPT, latents=0)
    with pytest.raises(InputError, match="empty one"):
        prior.score("", prompt=PROMPT)
