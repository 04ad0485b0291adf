"""A prior in the hand: read, updated by evidence, tilted, written down; every number against arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.algebra import log_normalize
from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.models import CausalLM
from factorlm.models.loading import read_model
from factorlm.prior import files
from factorlm.prior.manifest import Base, ComponentCard, Kind, Manifest, Prompts, SoftPrompts
from factorlm.prior.prior import Prior

FLOAT32 = 1e-4  # of likelihoods of some thirty nats, summed in batches of another shape
WEIGHTS = (0.2, 0.5, 0.3)
EVIDENCE = ["the good dog", "a bad thing."]


def bound(lm: CausalLM, kind: Kind, tensors: dict[str, Tensor], weights: tuple[float, ...] = WEIGHTS) -> Prior:
    cards = tuple(ComponentCard(name=name, weight=w, learned_weight=w) for name, w in zip("ABC", weights, strict=False))
    return Prior(
        Manifest(kind=kind, base=Base(name=lm.name, fingerprint=lm.fingerprint), components=cards), tensors, lm
    )


@pytest.fixture
def prior(tiny_lm: CausalLM) -> Prior:
    soft_KMD = torch.randn(3, 2, tiny_lm.width, generator=torch.Generator().manual_seed(0))
    return bound(tiny_lm, SoftPrompts(places=2), {"soft": soft_KMD})


@pytest.fixture
def saved(prior: Prior, tmp_path: Path) -> Path:
    prior.save(tmp_path / "saved")
    return tmp_path / "saved"


def likelihoods(prior: Prior, texts: list[str], prompt: str = "") -> Tensor:
    """The twin: one text under one component, [N, K]."""
    prefix_BT = torch.tensor([[0, *prior.lm.encode_text(prompt)]])
    rows = [torch.tensor([prior.lm.encode_text(text)]) for text in texts]
    found = [[prior.ensemble.component(k).score(prefix_BT, row).double().sum() for k in range(3)] for row in rows]
    return torch.tensor(found, dtype=torch.float64)


def test_likelihoods_of_evidence_are_those_of_the_components(prior: Prior) -> None:
    got_NK = prior.log_likelihood(EVIDENCE, prompt="in the zoo. ")
    torch.testing.assert_close(got_NK, likelihoods(prior, EVIDENCE, "in the zoo. "), atol=FLOAT32, rtol=0)
    assert float((got_NK - prior.log_likelihood(EVIDENCE)).abs().min()) > 0.01
    without = prior.tilt([0.0] * 3).filter(EVIDENCE, epsilon=1 - 1e-9)
    alive_K = without.log_prob_K > -torch.inf
    assert int(alive_K.sum()) == 1
    again_NK = without.log_likelihood(EVIDENCE)
    torch.testing.assert_close(again_NK[:, alive_K], prior.log_likelihood(EVIDENCE)[:, alive_K], atol=FLOAT32, rtol=0)
    assert bool((again_NK[:, ~alive_K] == -torch.inf).all())


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_evidence_moves_weights_by_bayes_rule(prior: Prior, beta: float) -> None:
    log_lik_K = likelihoods(prior, EVIDENCE).sum(0)
    got = prior.posterior(EVIDENCE, beta=beta, why="two  lines\nof it")
    want_K = log_normalize(prior.log_prob_K + beta * log_lik_K).exp()
    torch.testing.assert_close(got.log_prob_K.exp(), want_K, atol=FLOAT32, rtol=0)
    update = got.manifest.updates[-1]
    assert (update.what, update.why) == ("posterior", "two lines of it")
    assert update.before == WEIGHTS
    assert update.after == got.manifest.weights
    assert update.divergence == pytest.approx(float((want_K * (want_K.log() - prior.log_prob_K)).sum()), abs=1e-3)
    assert prior.manifest.weights == WEIGHTS  # the old one stays as it was
    assert [card.learned_weight for card in got.manifest.components] == list(WEIGHTS)


def test_one_text_after_the_other_is_both_at_once(prior: Prior) -> None:
    both = prior.posterior(EVIDENCE)
    one_by_one = prior.posterior(EVIDENCE[:1]).posterior(EVIDENCE[1:])
    torch.testing.assert_close(one_by_one.log_prob_K, both.log_prob_K, atol=FLOAT32, rtol=0)
    assert [update.why for update in one_by_one.manifest.updates] == EVIDENCE
    assert both.manifest.updates[0].why == "the good dog / a bad thing."


def test_a_filter_drops_what_the_evidence_refutes(prior: Prior) -> None:
    log_lik_K = likelihoods(prior, EVIDENCE).sum(0)
    second = float(log_lik_K.sort().values[1] - log_lik_K.max())
    got = prior.filter(EVIDENCE, epsilon=math.exp(second - 0.1))
    kept_K = torch.where(log_lik_K > log_lik_K.min(), torch.tensor(WEIGHTS, dtype=torch.float64), 0.0)
    torch.testing.assert_close(got.log_prob_K.exp(), kept_K / kept_K.sum(), atol=1e-12, rtol=0)
    assert got.manifest.updates[-1].divergence == pytest.approx(-math.log(float(kept_K.sum())))


def test_a_tilt_follows_rewards(prior: Prior) -> None:
    got = prior.tilt([1.0, -1.0, 0.0], temperature=0.5)
    raw = [w * math.exp(r / 0.5) for w, r in zip(WEIGHTS, (1.0, -1.0, 0.0), strict=True)]
    assert got.manifest.weights == pytest.approx([w / sum(raw) for w in raw], abs=1e-14)
    assert (got.manifest.updates[0].what, got.manifest.updates[0].why) == ("tilt", "rewards")
    with pytest.raises(InputError, match="a reward for each of 3 components is needed, got 2"):
        prior.tilt([1.0, 2.0])


def test_its_language_models_have_its_weights(prior: Prior) -> None:
    row_BT, text_BT = torch.tensor([[0, 5]]), torch.tensor([[6, 7, 8]])
    each_K = torch.stack([prior.ensemble.component(k).score(row_BT, text_BT).double().sum() for k in range(3)])
    want = torch.logsumexp(prior.log_prob_K + each_K, 0)
    torch.testing.assert_close(prior.mixture.score(row_BT, text_BT).double().sum(), want, atol=FLOAT32, rtol=0)
    blended = prior.blend.score(row_BT, text_BT).double().sum()
    assert abs(float(blended - want)) > 0.01
    each = prior.per_response(torch.tensor([2])).score(row_BT, text_BT).double().sum()
    torch.testing.assert_close(each, each_K[2], atol=FLOAT32, rtol=0)
    assert sorted(prior.draw(3, torch.Generator().manual_seed(0)).tolist()) == [0, 1, 2]
    assert prior.entropy == pytest.approx(-sum(w * math.log(w) for w in WEIGHTS))
    assert (prior.names, prior.num_components, prior.index("C")) == (("A", "B", "C"), 3, 2)
    assert prior.mixture.names == prior.names
    with pytest.raises(InputError, match="one of the components A, B, C is needed, got 'D'"):
        prior.index("D")


def test_what_components_have_read_stays_read_after_an_update(prior: Prior) -> None:
    assert prior.posterior(EVIDENCE).ensemble is prior.ensemble


def test_evidence_that_is_none_is_refused(prior: Prior) -> None:
    with pytest.raises(InputError, match="at least one token is needed as evidence"):
        prior.posterior(["the good dog", ""])
    with pytest.raises(InputError, match=r"at most 128 tokens a text is read, got 200 in one that begins 'xxxx"):
        prior.filter(["x" * 200])


def test_it_comes_back_bit_for_bit(prior: Prior, tmp_path: Path) -> None:
    changed = prior.posterior(EVIDENCE, beta=0.1).tilt([0.1, 0.2, 0.3]).filter(EVIDENCE, epsilon=1e-9)
    changed.save(tmp_path / "new" / "prior")
    loaded = Prior.load(tmp_path / "new" / "prior", prior.lm)
    row_BT, text_BT = torch.tensor([[0, 5], [0, 6]]), torch.tensor([[6, 7, 8], [9, 10, -1]])
    assert torch.equal(loaded.mixture.score(row_BT, text_BT), changed.mixture.score(row_BT, text_BT))
    assert torch.equal(loaded.log_prob_K, changed.log_prob_K)
    assert loaded.manifest.updates == changed.manifest.updates
    assert len(loaded.manifest.updates) == 3
    assert loaded.manifest.model_copy(update={"files": {}}) == changed.manifest


def test_sentences_come_back_without_numbers(tiny_lm: CausalLM, tmp_path: Path) -> None:
    made = bound(tiny_lm, Prompts(assumptions=("the good", " bad. ", "")), {})
    made.save(tmp_path / "p")
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["prior.json"]
    loaded = Prior.load(tmp_path / "p", tiny_lm)
    row_BT, text_BT = torch.tensor([[0]]), torch.tensor([[6, 7, 8]])
    assert torch.equal(loaded.mixture.score(row_BT, text_BT), made.mixture.score(row_BT, text_BT))
    prefix_BT = torch.tensor([[0, *tiny_lm.encode_text("bad.\n\n")]])
    each_BT = loaded.ensemble.component(1).score(row_BT, text_BT)
    torch.testing.assert_close(each_BT, tiny_lm.score(prefix_BT, text_BT), atol=FLOAT32, rtol=0)


def test_another_model_is_refused(saved: Path, tiny_folder: Path) -> None:
    other = read_model(str(tiny_folder), dtype="float32", device="cpu")
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    with pytest.raises(IncompatibleError, match=r"this prior was learned with .*; name that model"):
        Prior.load(saved, other)


def test_its_base_is_found_by_name(saved: Path, tiny_folder: Path, prior: Prior) -> None:
    loaded = Prior.load(saved, dtype="float32", device="cpu")
    assert loaded.lm.fingerprint == prior.lm.fingerprint


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        card = json.loads((folder / files.MANIFEST).read_text())
        change(card)
        (folder / files.MANIFEST).write_text(json.dumps(card))

    return edit


def component(card: dict[str, object], number: int) -> dict[str, object]:
    return card["components"][number]  # type: ignore[index, return-value]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights of the past": (
        lambda folder: (folder / files.WEIGHTS).write_bytes((folder / files.WEIGHTS).read_bytes()[:-1] + b"x"),
        "is not the file that prior.json names; copy the prior again",
    ),
    "no weights": (lambda folder: (folder / files.WEIGHTS).unlink(), "cannot be read"),
    "no json": (lambda folder: (folder / files.MANIFEST).write_text("{"), "invalid json"),
    "a book": (lambda folder: (folder / files.MANIFEST).write_text(" " * 2**22 + "{}"), "is larger than"),
    "too much weight": (edited(lambda card: component(card, 0).update(weight=0.9)), "weights must sum to 1"),
    "negative weight": (edited(lambda card: component(card, 0).update(weight=-0.2)), "greater than or equal to 0"),
    "no number": (edited(lambda card: component(card, 0).update(weight=math.nan)), "finite number"),
    "a word for a number": (edited(lambda card: component(card, 0).update(weight="0.2")), "valid number"),
    "twice one name": (edited(lambda card: component(card, 0).update(name="B")), "different names"),
    "a name that is none": (edited(lambda card: component(card, 0).update(name="../A")), "components.0.name"),
    "nobody": (edited(lambda card: card.update(components=[])), "at least 1 item"),
    "a word too much": (edited(lambda card: card.update(colour="red")), "colour: extra inputs"),
    "another kind": (edited(lambda card: card.update(kind={"kind": "soft"})), "kind: input tag 'soft'"),
    "another format": (edited(lambda card: card.update(format=2)), "format: input should be 1"),
    "half of the divergences": (edited(lambda card: card.update(divergence=[[0.0]])), "divergences of 3 components"),
    "too few sentences": (
        edited(lambda card: card.update(kind={"kind": "prompt", "assumptions": ["a"]})),
        "one assumption for each of 3 components is needed, got 1",
    ),
    "too few vectors": (
        edited(lambda card: card.update(kind={"kind": "soft-prompt", "places": 3})),
        "soft prompts of 3 vectors of 32 numbers are needed",
    ),
    "no numbers named": (edited(lambda card: card.update(files={})), "numbers named 'soft' are needed, got none"),
    "more cards than components": (
        edited(lambda card: card["components"].append({"name": "D", "weight": 0.0, "learned_weight": 0.0})),  # type: ignore[attr-defined]
        "numbers of 4 components are needed, got those of 3",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_explained_in_one_line(saved: Path, tiny_lm: CausalLM, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(saved)
    with pytest.raises(IntegrityError, match=message) as caught:
        _ = Prior.load(saved, tiny_lm).mixture
    assert "\n" not in str(caught.value)


def test_places_that_are_taken_are_kept(prior: Prior, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is something at"):
        prior.save(saved)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is not a prior, so it is not replaced"):
        prior.save(tmp_path / "mine", replace=True)
    prior.tilt([1.0, 0.0, 0.0]).save(saved, replace=True)
    assert len(Prior.load(saved, prior.lm).manifest.updates) == 1
    with pytest.raises(InputError, match=r"a folder with a prior\.json is needed"):
        Prior.load(tmp_path / "mine", prior.lm)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        prior.save(tmp_path / "file" / "prior")


def test_numbers_that_are_none_are_not_saved(prior: Prior, tmp_path: Path) -> None:
    prior.tensors["soft"][0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="finite numbers are needed in soft"):
        prior.save(tmp_path / "prior")
    assert not (tmp_path / "prior").exists()
