"""From a prefix to a latent to a text, on a tiny model and vectors that count words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.diffusion.collection import Collection
from factorlm.diffusion.decoders import PlanSettings
from factorlm.diffusion.decoding import BiasLearning, Examples, SoftLearning, learn_bias, learn_soft
from factorlm.diffusion.denoiser import DenoiserSettings
from factorlm.diffusion.files import FOLDER, Origin, load, save
from factorlm.diffusion.guidance import Guidance
from factorlm.diffusion.guides import LinearGuide, Standard
from factorlm.diffusion.learning import DenoiserLearning, learn_denoiser
from factorlm.diffusion.meanings import Meanings, Proposing
from factorlm.diffusion.particles import LatentParticles
from factorlm.diffusion.sampling import Denoising
from factorlm.diffusion.zero_shot import DEVIATION, RARE, guide_of_words, sides
from factorlm.errors import IncompatibleError, InputError, IntegrityError, UnknownNameError
from factorlm.models import CausalLM

WORDS = ("good", "bad", "cat", "tree")
CAT, TREE = "the cat", "the tree"


def encode(texts: Sequence[str]) -> Tensor:
    """Counts of four words, and a fixed bit of noise that depends on the text."""
    rows = []
    for text in texts:
        noise_D = 0.3 * torch.randn(6, generator=torch.Generator().manual_seed(sum(map(ord, text)) + len(text)))
        rows.append(noise_D + torch.tensor([float(text.split().count(word)) for word in WORDS] + [1.0, 1.0]))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


@pytest.fixture(scope="module")
def meanings(tiny_lm: CausalLM) -> Meanings:
    """Behind a cat comes good three times out of four, behind a tree bad."""
    generator = torch.Generator().manual_seed(0)
    prefixes, continuations = [], []
    for n in range(240):
        is_usual = float(torch.rand(1, generator=generator)) < 0.75
        prefixes.append([CAT, TREE][n % 2] + " a" * (n % 7))
        continuations.append(" ".join([("good", "bad")[(n + (not is_usual)) % 2]] * (2 + n % 3)))
    before_ND, after_ND = encode(prefixes), encode(continuations)
    before, after = Standard.of(before_ND), Standard.of(after_ND)
    latent_ND = after.latent(after_ND)
    examples = Examples(
        [[*tiny_lm.start_ids, *tiny_lm.encode_text(text)] for text in prefixes],
        [tiny_lm.encode_text(f" {text}") for text in continuations], latent_ND,
    )  # fmt: skip
    soft = SoftLearning(plan=PlanSettings(places=2, narrow=8, layers=1, heads=4), steps=120, batch=32, rising=10,
                        learning_rate=1e-2, kept=0.9)  # fmt: skip
    network = DenoiserSettings(width=64, blocks=2, waves=8)
    return Meanings(
        tiny_lm, encode, before, after,
        learn_denoiser(latent_ND, before.latent(before_ND),
                       DenoiserLearning(network=network, steps=700, learning_rate=3e-3, rising=50, kept=0.99)),
        learn_soft(tiny_lm, examples, soft),
        learn_bias(tiny_lm, examples, BiasLearning(steps=120, batch=128, rising=10, learning_rate=3e-2, kept=0.9)),
    )  # fmt: skip


def goodness(vector_BD: Tensor) -> float:
    """Share of vectors that say good rather than bad."""
    return float((vector_BD[:, 0] > vector_BD[:, 1]).float().mean())


def guide(meanings: Meanings, sign: float = 1.0) -> LinearGuide:
    return LinearGuide(sign * 6 * torch.tensor([1.0, -1.0, 0, 0, 0, 0]), 0.0, meanings.after)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_proposals_follow_the_prefix(meanings: Meanings) -> None:
    found = {text: goodness(meanings.propose([text] * 150, generator(), Proposing()).vector_BD) for text in (CAT, TREE)}
    assert found[CAT] == pytest.approx(0.75, abs=0.2)  # 4 standard errors, and what learning lacks
    assert found[TREE] == pytest.approx(0.25, abs=0.2)
    without = Proposing(scale=0.0)
    cat, tree = (meanings.propose([text] * 8, generator(), without).latent_BD for text in (CAT, TREE))
    assert torch.equal(cat, tree)


def test_guides_lean_and_none_changes_nothing(meanings: Meanings) -> None:
    plain = meanings.propose([TREE] * 100, generator(), Proposing())
    zero = meanings.propose([TREE] * 100, generator(), Proposing(), guides=[guide(meanings)], strengths=[0.0])
    assert torch.equal(plain.latent_BD, zero.latent_BD)
    up, down = (
        meanings.propose([TREE] * 100, generator(), Proposing(), guides=[guide(meanings, sign)], strengths=[4.0])
        for sign in (1.0, -1.0)
    )
    assert goodness(down.vector_BD) < goodness(plain.vector_BD) < goodness(up.vector_BD)
    assert goodness(up.vector_BD) > 0.8
    assert up.guide_prob_SGB.shape == (20, 1, 100)
    torch.testing.assert_close(up.guide_prob_SGB[-1, 0], guide(meanings).log_prob(up.latent_BD).exp())


def test_particles_draw_from_the_tilted_prior(meanings: Meanings) -> None:
    """Odds of good against bad are those of the prior, times what the guide makes of either."""
    denoising = Denoising(steps=25, variance=1.0, most=4.0)
    plain = meanings.propose([TREE] * 600, generator(), Proposing(denoising=denoising))
    prob_B = guide(meanings).log_prob(plain.latent_BD).exp()
    is_good_B = plain.vector_BD[:, 0] > plain.vector_BD[:, 1]
    want = float(prob_B[is_good_B].sum() / prob_B.sum())
    settings = Proposing(denoising=denoising, particles=LatentParticles(number=16), guidance=Guidance(draws=8))
    found = meanings.propose([TREE] * 60, generator(), settings, guides=[guide(meanings)], strengths=[1.0])
    assert found.latent_BD.shape == (60, 6)
    assert found.effective_B.shape == (60,)
    error = math.sqrt(want * (1 - want) * (1 / 60 + 1 / 600))
    assert abs(goodness(found.vector_BD) - want) < 5 * error + 0.02


@pytest.mark.parametrize("kind", ["soft", "bias"])
def test_decoders_write_what_latents_say(meanings: Meanings, kind: str) -> None:
    """Good is likelier behind a latent that says so, and a text is scored by the row's own latent."""
    lm = meanings.lm
    latent_BD = meanings.after.latent(encode(["good good good", "bad bad bad"]))
    made = meanings.decoder(latent_BD, generator(), kind)  # type: ignore[arg-type]
    prefix_BT = torch.tensor([[*lm.start_ids, *lm.encode_text(CAT)]] * 2)
    good, bad = (torch.tensor([lm.encode_text(f" {word}")] * 2) for word in ("good", "bad"))
    ratio_B = made.score(prefix_BT, good).sum(1) - made.score(prefix_BT, bad).sum(1)
    assert float(ratio_B[0]) > float(ratio_B[1]) + 1


def test_what_is_missing_is_said(meanings: Meanings) -> None:
    bare = Meanings(meanings.lm, encode, meanings.before, meanings.after, meanings.denoiser)
    with pytest.raises(InputError, match="kind soft was not learned; there are: none"):
        bare.decoder(torch.zeros(1, 6), generator())
    with pytest.raises(InputError, match="at least one prefix"):
        bare.propose([], generator(), Proposing())
    with pytest.raises(InputError, match="got 0 for 1"):
        bare.propose([CAT], generator(), Proposing(), guides=[guide(meanings)])


def test_nearest_sentences_are_found_and_kept(meanings: Meanings, tmp_path: Path) -> None:
    found = Collection(("east", "north", "up"), torch.eye(3))
    [nearest] = found.nearest(torch.tensor([[0.8, 0.6, 0.0]]), 2)
    assert [text for text, _ in nearest] == ["east", "north"]
    assert [cosine for _, cosine in nearest] == pytest.approx([0.8, 0.6])
    texts = [f"a {word}\nof {n}" for word in WORDS for n in range(5)] * 2
    some = Collection.of(texts, encode(texts), 12, seed=3)
    assert len(set(some.texts)) == 12
    torch.testing.assert_close(some.vector_CD, encode(some.texts))
    save(replace(meanings, collection=some), tmp_path / "kept", encoder="counts")
    again = load(tmp_path / "kept", meanings.lm, encode).collection
    assert again is not None
    assert again.texts == tuple(" ".join(text.split()) for text in some.texts)  # one a line
    assert float((again.vector_CD * some.vector_CD).sum(1).min()) > 0.999
    assert load_without(meanings, tmp_path).collection is None


def load_without(meanings: Meanings, tmp_path: Path) -> Meanings:
    save(meanings, tmp_path / "without", encoder="counts")
    return load(tmp_path / "without", meanings.lm, encode)


def test_guides_of_words(meanings: Meanings) -> None:
    """Direction from ordinary to wanted, as steep as ordinary sentences spread."""
    assert sides("positive") is None
    with pytest.raises(InputError, match="a word is needed"):
        sides("topic: ")
    with pytest.raises(UnknownNameError, match="topic"):
        sides("topics:sports")
    like, unlike = sides("topic:modern_art") or ([], [])
    assert all("modern art" in text for text in like)
    assert not any("modern art" in text for text in unlike)
    ordinary = Collection.of(
        texts := [f"{a} {b} {n}" for a in WORDS for b in WORDS for n in range(4)], encode(texts), 60, 0
    )
    weight_D, bias = guide_of_words(encode(["cat", "cat cat"]), encode(["tree", "bad"]), ordinary)
    logit_C = ordinary.vector_CD @ weight_D + bias
    assert float(logit_C.std()) == pytest.approx(DEVIATION, rel=1e-4)
    assert float(logit_C.mean()) == pytest.approx(-RARE * DEVIATION, rel=1e-4)
    cat, tree = (encode([text]) @ weight_D + bias for text in ("cat cat cat", "tree tree"))
    assert float(cat) > 0 > float(tree)
    with pytest.raises(InputError, match="that differ"):
        guide_of_words(encode(["cat"]), encode(["cat"]), ordinary)


def test_it_comes_back(meanings: Meanings, tmp_path: Path) -> None:
    origin = Origin(corpus="toys", licence="CC0-1.0", num_windows=240, measured={"nats": 1.5})
    save(meanings, tmp_path / "whole", encoder="counts", origin=origin, half=False)
    again = load(tmp_path / "whole", meanings.lm, encode)
    one, other = (m.propose([CAT] * 5, generator(), Proposing()).latent_BD for m in (meanings, again))
    assert torch.equal(one, other)
    prefix_BT, text_BT = torch.tensor([meanings.lm.start_ids] * 5), torch.tensor([[6, 7]] * 5)
    for kind in ("soft", "bias"):
        scores = [m.decoder(one, generator(), kind).score(prefix_BT, text_BT) for m in (meanings, again)]
        assert torch.equal(*scores)
    card = FOLDER.read_card(tmp_path / "whole")
    assert (card.encoder, card.origin, card.trust) == ("counts", origin, meanings.trust)
    save(meanings, tmp_path / "half", encoder="counts")
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    near = load(tmp_path / "half", meanings.lm, encode).propose([CAT] * 5, generator(), Proposing()).latent_BD
    assert float((near - one).abs().mean()) < 0.05  # three digits of each number
    bare = Meanings(meanings.lm, encode, meanings.before, meanings.after, meanings.denoiser)
    save(bare, tmp_path / "bare", encoder="counts")
    assert load(tmp_path / "bare", meanings.lm, encode).soft is None


def test_what_does_not_fit_is_refused(meanings: Meanings, tmp_path: Path) -> None:
    place = tmp_path / "m"
    save(meanings, place, encoder="counts")
    with pytest.raises(InputError, match="there is something"):
        save(meanings, place, encoder="counts")
    with pytest.raises(InputError, match=r"meanings.json is needed"):
        load(tmp_path, meanings.lm, encode)
    card = json.loads((place / "meanings.json").read_text())
    for changes, error, message in (
        ({"fingerprint": "0123"}, IncompatibleError, "are decoded by"),
        ({"num_latent": 7}, IntegrityError, "numbers are needed"),
        ({"plan": {"places": 3, "narrow": 8, "layers": 1, "heads": 4}}, IntegrityError, "numbers of soft"),
        ({"unknown": 1}, IntegrityError, "extra inputs"),
    ):
        (place / "meanings.json").write_text(json.dumps(card | changes))
        with pytest.raises(error, match=message):
            load(place, meanings.lm, encode)


@pytest.mark.parametrize("settings", [
    Proposing(), Proposing(denoising=Denoising(steps=8)),
    Proposing(denoising=Denoising(steps=8), particles=LatentParticles(number=4)),
])  # fmt: skip
def test_with_randomness_of_their_own_proposals_do_not_depend_on_others(
    meanings: Meanings, settings: Proposing
) -> None:
    prefixes, wanted = [CAT, TREE, CAT], {"guides": [guide(meanings)], "strengths": [3.0]}
    together = meanings.propose(prefixes, [generator(n) for n in range(3)], settings, **wanted)
    for n, prefix in enumerate(prefixes):
        alone = meanings.propose([prefix], [generator(n)], settings, **wanted)
        torch.testing.assert_close(alone.latent_BD[0], together.latent_BD[n], atol=1e-4, rtol=1e-4)
