"""An edit changes one factor, does exactly what was asked, and moves the rest least."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import factorlm as fl
from factorlm.errors import IncompatibleError, InputError
from factorlm.factors import store, versions
from factorlm.factors.calibration import factor_strengths, head_strengths, neutral_states
from factorlm.factors.editing import FORBIDDEN, Edited, edit
from factorlm.factors.head import EncoderCard, Head, HeadWeights
from factorlm.factors.history import history
from factorlm.factors.least_change import SMOOTHING, Surroundings, least_change, wordings
from factorlm.factors.manifest import (
    Calibration,
    Change,
    ContrastSettings,
    Dose,
    HeadSettings,
    LexiconSettings,
    Manifest,
    PromptSettings,
    Response,
)
from factorlm.factors.store import Store
from factorlm.factors.word_effect import likely_places, word_effect
from factorlm.factors.wordlist import UnboundLexicon
from factorlm.models import CausalLM

BAN = -math.inf
BASE = Dose(strength=0.0, rate=0.5, rate_error=0.1, perplexity_ratio=1.0, distinct=0.9)
MakeHead = Callable[..., Head]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's own store, empty."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "own"))
    return Store(tmp_path / "own")


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def visible(folder: Path) -> dict[str, str]:
    return {name: sha for name, sha in contents(folder).items() if not name.startswith(".")}


def save_head(own: Store, lm: CausalLM, head: Head, name: str = "mild", **more: Any) -> HeadWeights:
    weights = head.weights
    card = EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width)
    manifest = Manifest(
        name=name,
        settings=HeadSettings(rank=weights.rank),
        encoder=card,
        strengths=head_strengths(lm, weights),
        **more,
    )
    own.save(manifest, {"bias": weights.bias_D, "up": weights.up_DR, "down": weights.down_RD}, replace=True)
    return weights


def pushes(lm: CausalLM, head: Head) -> torch.Tensor:
    """Mean potential of every token relative to the base's mean, [V]: the definition, written out."""
    states = neutral_states(lm)
    total_V = torch.zeros(lm.vocabulary.size, dtype=torch.float64)
    for hidden_D, log_prob_V in zip(states.hidden_ND, states.log_prob_NV, strict=True):
        potential_V = lm.unembedding_VD.double() @ head.weights(hidden_D[None])[0].double()
        total_V += potential_V - (log_prob_V.double().exp() * potential_V).sum()
    return total_V / len(states.hidden_ND)


# Heads


@pytest.mark.parametrize("rank", [0, 3])
def test_a_head_gives_each_word_its_push(own: Store, tiny_lm: CausalLM, make_head: MakeHead, rank: int) -> None:
    old = save_head(own, tiny_lm, make_head(rank))
    edited = edit(tiny_lm, "mild", allow=["good"], forbid=["bad"], boost={"the": 1.25, "in a": -0.5})
    assert isinstance(edited.new, Head)
    push_V = pushes(tiny_lm, edited.new)
    before_V = pushes(tiny_lm, make_head(rank))
    for word, want in (("good", 0.0), ("bad", FORBIDDEN), ("the", 1.25), ("in a", -0.5)):
        found = dict(zip(wordings(tiny_lm, word), edited.pushes[word], strict=True))
        assert len(found) == 2
        for way, push in found.items():
            assert float(push_V[list(way)].sum()) == pytest.approx(want, abs=1e-5)
            assert push.after == pytest.approx(want, abs=1e-5)
            assert push.before == pytest.approx(float(before_V[list(way)].sum()), abs=1e-5)
    assert torch.equal(edited.new.weights.up_DR, old.up_DR)
    assert torch.equal(edited.new.weights.down_RD, old.down_RD)
    assert not torch.equal(edited.new.weights.bias_D, old.bias_D)


def spread(lm: CausalLM, change_D: torch.Tensor, edited: Sequence[int]) -> float:
    """Mean variance over states of what the change does to the tokens that are not edited: the slow twin."""
    total, states = 0.0, neutral_states(lm).log_prob_NV.double().exp()
    for prob_V in states:
        chance = [
            0.0 if v in edited else (1 - SMOOTHING) * float(p) + SMOOTHING / len(prob_V) for v, p in enumerate(prob_V)
        ]
        weight_V = torch.tensor(chance, dtype=torch.float64) / math.fsum(chance)
        value_V = lm.unembedding_VD.double() @ change_D
        mean = (weight_V * value_V).sum()
        total += float((weight_V * (value_V - mean) ** 2).sum())
    return total / len(states)


def test_no_other_change_that_does_it_moves_the_rest_less(own: Store, tiny_lm: CausalLM, make_head: MakeHead) -> None:
    old = save_head(own, tiny_lm, make_head(2))
    edited = edit(tiny_lm, "mild", allow=["good"], forbid=["bad"])
    assert isinstance(edited.new, Head)
    change_D = edited.new.weights.bias_D.double() - old.bias_D.double()
    ways = [way for word in ("good", "bad") for way in wordings(tiny_lm, word)]
    whole = [way[0] for way in ways if len(way) == 1]
    assert len(whole) == 4
    around = Surroundings.of(tiny_lm, whole)
    direction_KD = torch.stack([around.direction(tiny_lm, way) for way in ways])
    assert float(change_D @ around.covariance_DD @ change_D) == pytest.approx(
        spread(tiny_lm, change_D, whole), rel=1e-4
    )
    best = spread(tiny_lm, change_D, whole)
    generator = torch.Generator().manual_seed(0)
    null_MD = torch.linalg.svd(direction_KD)[2][len(ways) :]
    for size in (0.01, 0.1, 1.0):
        for _ in range(5):
            step_M = size * torch.randn(len(null_MD), generator=generator, dtype=torch.float64)
            other_D = change_D + step_M @ null_MD
            torch.testing.assert_close(direction_KD @ other_D, direction_KD @ change_D)
            assert spread(tiny_lm, other_D, whole) > best


def test_least_change_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(1)
    root_DD = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    covariance_DD = root_DD @ root_DD.T
    direction_KD = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    move_K = torch.randn(3, generator=generator, dtype=torch.float64)
    inverse_DD = covariance_DD.inverse()
    want_D = inverse_DD @ direction_KD.T @ (direction_KD @ inverse_DD @ direction_KD.T).inverse() @ move_K
    torch.testing.assert_close(least_change(covariance_DD, direction_KD, move_K), want_D, rtol=1e-5, atol=1e-7)
    twice = least_change(covariance_DD, torch.cat([direction_KD] * 2), torch.cat([move_K] * 2))
    torch.testing.assert_close(twice, want_D, rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError, match="edit fewer"):
        least_change(covariance_DD, torch.cat([direction_KD] * 2), torch.cat([move_K, -move_K]))


def test_earlier_edits_of_a_head_stay(own: Store, tiny_lm: CausalLM, make_head: MakeHead) -> None:
    save_head(own, tiny_lm, make_head(1))
    edit(tiny_lm, "mild", boost={"good": 2.0}).save()
    edit(tiny_lm, "mild", forbid=["bad"]).save()
    last = edit(tiny_lm, "mild", allow=["the"])
    assert isinstance(last.new, Head)
    push_V = pushes(tiny_lm, last.new)
    for word, want in (("good", 2.0), ("bad", FORBIDDEN), ("the", 0.0)):
        for way in wordings(tiny_lm, word):
            assert float(push_V[list(way)].sum()) == pytest.approx(want, abs=1e-4)
    assert history(last.manifest) == {"good": "boost", "bad": "forbid", "the": "allow"}


def test_history_is_read_from_fields_and_from_the_prose_of_older_cards() -> None:
    old = Change(version="0.1.0", what="allow 'good'; boost \"it's\" to 2 nats; the calibration is from before")
    new = Change(version="0.2.0", what="whatever", forbid=("boost 'good' to 1",), boost={"good": -1.0})
    measured = Change(version="0.3.0", what="measured its dose and response")
    card = Manifest(name="mild", settings=LexiconSettings(phrases={"a": 1.0}), changes=(old, new, measured))
    assert history(card) == {"good": "boost", "it's": "boost", "boost 'good' to 1": "forbid"}


def test_the_card_of_an_edited_head(own: Store, tiny_lm: CausalLM, make_head: MakeHead) -> None:
    calibration = Calibration(scale=1.0, prior=0.0, dev_loss=0.5, dev_auc=0.9)
    response = Response(judge="j", accuracy=0.9, num_texts=1, num_tokens=1, doses=(BASE,))
    save_head(own, tiny_lm, make_head(1), calibration=calibration, response=response, effect={"separation": 0.5})
    edited = edit(tiny_lm, "mild", forbid=['it\'s "bad"'])
    card = edited.manifest
    assert (card.version, card.response, card.effect, card.calibration) == ("0.2.0", None, {}, calibration)
    [change] = card.changes
    assert change.version == "0.1.0"
    assert change.what.endswith("; the calibration is from before")
    assert history(card) == {'it\'s "bad"': "forbid"}
    assert change.forbid == ('it\'s "bad"',)
    assert isinstance(edited.new, Head)
    assert card.strengths == head_strengths(tiny_lm, edited.new.weights)
    assert card.strengths != edited.before.strengths
    assert any("a head cannot ban" in note for note in edited.notes)
    edited.save()
    loaded = fl.factors.bind(fl.factor("mild"), tiny_lm)
    assert isinstance(loaded, Head)
    assert torch.equal(loaded.weights.bias_D, edited.new.weights.bias_D)


def test_collateral_counts_the_other_tokens_only(own: Store, tiny_lm: CausalLM, make_head: MakeHead) -> None:
    save_head(own, tiny_lm, make_head(0))
    whole = [way[0] for way in wordings(tiny_lm, "good")]
    near, far = (edit(tiny_lm, "mild", boost={"good": nats}) for nats in (0.1, 3.0))
    assert near.collateral is not None
    assert far.collateral is not None
    assert 0 <= near.collateral.divergence < far.collateral.divergence
    assert far.collateral.correlation < near.collateral.correlation <= 1 + 1e-6
    states, others = neutral_states(tiny_lm), [v for v in range(tiny_lm.vocabulary.size) if v not in whole]
    assert isinstance(far.old, Head)
    assert isinstance(far.new, Head)
    total = 0.0
    for n, log_prob_V in enumerate(states.log_prob_NV):
        old_V, new_V = (
            (log_prob_V + head.strengths.exponent(0.2) * head.potential(states.hidden_ND[n : n + 1])[0])[others]  # type: ignore[union-attr]
            .double()
            .log_softmax(-1)
            for head in (far.old, far.new)
        )
        total += float((old_V.exp() * (old_V - new_V)).sum())
    assert far.collateral.divergence == pytest.approx(total / len(states.log_prob_NV), rel=1e-3)


# Lexica


def test_a_lexicon_edited_in_the_store(own: Store, tiny_lm: CausalLM) -> None:
    own.save(Manifest(name="words", settings=LexiconSettings(phrases={"bad": -2.0, "good": 1.0})))
    edit(tiny_lm, "words", allow=["the bad"]).save()
    edited = edit(tiny_lm, "words", boost={"bad": -3.0}, forbid=["ill"])
    assert edited.manifest.settings == LexiconSettings(phrases={"good": 1.0, "ill": None, "bad": -3.0, "the bad": 3.0})
    assert (edited.manifest.version, edited.manifest.strengths, edited.tensors) == ("0.3.0", None, None)
    rows = word_effect(tiny_lm, edited, ["a", "the "]).rows
    assert [(row.word, row.context) for row in rows] == [(w, c) for w in ("ill", "bad") for c in ("a", "the ")]
    assert all(row.after == 0 < row.before for row in rows[:2])
    assert rows[2].after < rows[2].before < rows[2].base


def test_a_lexicon_with_measured_strengths_is_measured_again(own: Store, tiny_lm: CausalLM) -> None:
    before = LexiconSettings(phrases={"the": 2.0, "in": 1.0})
    strengths = factor_strengths(tiny_lm, UnboundLexicon.from_settings("words", None, before).bind(tiny_lm))
    own.save(Manifest(name="words", settings=before, strengths=strengths))
    edited = edit(tiny_lm, "words", allow=["the"])
    assert edited.manifest.strengths == factor_strengths(tiny_lm, edited.new)
    assert edited.manifest.strengths not in (None, strengths)


# The effect on words


def test_probabilities_of_words_written_out(own: Store, tiny_lm: CausalLM, make_head: MakeHead) -> None:
    save_head(own, tiny_lm, make_head(2))
    edited = edit(tiny_lm, "mild", boost={"kind": 2.0}, allow=["good"])
    effect = word_effect(tiny_lm, edited, ["in the end", ""], strength=-0.3)
    assert isinstance(edited.old, Head)
    assert isinstance(edited.new, Head)
    for row in effect.rows:
        ids = tiny_lm.encode_text(row.word if row.context == "" else f" {row.word}")
        want = [1.0, 1.0, 1.0]
        prefix = [*tiny_lm.start_ids, *tiny_lm.encode_text(row.context)]
        for token in ids:
            hidden_D = tiny_lm.encode(torch.tensor([prefix])).hidden_BD[0]
            for i, (head, exponent) in enumerate(
                ((edited.old, 0.0), (edited.old, effect.exponent_before), (edited.new, effect.exponent_after))
            ):
                shifted_D = hidden_D + exponent * head.weights(hidden_D[None])[0]
                want[i] *= float((tiny_lm.unembedding_VD @ shifted_D).softmax(-1)[token])
            prefix.append(token)
        assert (row.base, row.before, row.after) == pytest.approx(tuple(want), rel=1e-3)
    assert effect.exponent_before == edited.before.strengths.exponent(-0.3)  # type: ignore[union-attr]
    assert effect.exponent_before != effect.exponent_after


def test_words_are_shown_where_they_are_likely(tiny_lm: CausalLM) -> None:
    states, token = neutral_states(tiny_lm), tiny_lm.encode_text(" good")[0]
    places = likely_places(tiny_lm, [token], most=3)
    chances = [float(tiny_lm.start(torch.tensor([place])).log_weight_BV[0, token]) for place in places]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == pytest.approx(float(states.log_prob_NV[:, token].max()), abs=1e-4)
    assert len({tuple(place[:8]) for place in places}) == 3


# Versions


def test_one_factor_changes_and_undo_brings_it_back(own: Store, tiny_lm: CausalLM, make_head: MakeHead) -> None:
    save_head(own, tiny_lm, make_head(1))
    save_head(own, tiny_lm, make_head(2), "other")
    own.save(Manifest(name="words", settings=LexiconSettings(phrases={"bad": -2.0})))
    seen = [visible(own.folder)]
    for word in ("good", "bad", "the"):
        edit(tiny_lm, "mild", forbid=[word]).save()
        seen.append(visible(own.folder))
        changed = {name for name in seen[-1] if seen[-1][name] != seen[-2][name]}
        assert changed == {name for name in seen[-1] if name.startswith("mild/")}
    assert own.names() == ["mild", "other", "words"]
    assert list(versions.kept_versions(own, "mild")) == ["0.1.0", "0.2.0", "0.3.0"]
    for folder in versions.kept_versions(own, "mild").values():
        store.verify(folder, store.read_manifest(folder))
    for before, version in zip(seen[2::-1], ("0.3.0", "0.2.0", "0.1.0"), strict=True):
        done = versions.undo("mild")
        assert (done.manifest.version, done.folder) == (version, own.folder / "mild")
        assert visible(own.folder) == before
        fl.factor("mild")
    with pytest.raises(InputError, match=r"mild 0\.1\.0 has no edit to undo"):
        versions.undo("mild")
    assert edit(tiny_lm, "mild", allow=["good"]).manifest.version == "0.5.0"  # 0.2.0 to 0.4.0 have been something else


# What cannot be edited


@pytest.mark.parametrize(
    "settings", [PromptSettings(instruction="Be kind."), ContrastSettings(expert=None, anti_expert="smollm2")]
)
def test_other_kinds_say_what_can_be_edited(own: Store, tiny_lm: CausalLM, settings: Any) -> None:
    own.save(Manifest(name="asked", settings=settings))
    with pytest.raises(InputError, match=f"heads and lexica can be edited, asked is a {settings.kind}"):
        edit(tiny_lm, "asked", allow=["bad"])


BAD_EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "a word to allow"),
    "empty": ({"allow": ["  "]}, "visible character"),
    "twice": ({"allow": ["bad"], "forbid": ["bad "]}, "once"),
    "two spellings": ({"allow": ["bad"], "forbid": ["Bad"]}, "two pushes"),
    "not finite": ({"boost": {"bad": BAN}}, "forbid it"),
    "too many": ({"boost": {chr(a): float(a) for a in range(97, 123)}, "allow": [chr(a) * 2 for a in range(97, 123)]},
                 "edit fewer"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_EDITS)
def test_edits_that_make_no_sense(own: Store, tiny_lm: CausalLM, make_head: MakeHead, case: str) -> None:
    save_head(own, tiny_lm, make_head(0))
    edits, message = BAD_EDITS[case]
    with pytest.raises(InputError, match=message):
        edit(tiny_lm, "mild", **edits)


def test_a_head_of_another_encoder_is_refused(own: Store, tiny_lm: CausalLM) -> None:
    with pytest.raises(IncompatibleError, match="needs the encoder smollm2"):
        edit(tiny_lm, "toxic", allow=["bad"])


@pytest.mark.model
def test_a_mild_word_is_toxic_no_more(own: Store, lm: CausalLM) -> None:
    edited: Edited = edit(lm, "toxic", allow=["stupid"])
    assert edited.pushes["stupid"][0].before > 0.5
    assert all(push.after == pytest.approx(0, abs=1e-5) for push in edited.pushes["stupid"])
    [row] = word_effect(lm, edited, ["You are so"]).rows
    assert row.before > 4 * row.base
    assert row.after < row.base
    assert edited.collateral is not None
    assert edited.collateral.divergence < 0.006  # of 0.2
    assert edited.collateral.correlation > 0.99
    shelf = store.folder_of("toxic")
    assert edited.save() == own.folder / "toxic" == store.folder_of("toxic")
    assert versions.undo("toxic").folder == shelf == store.folder_of("toxic")
