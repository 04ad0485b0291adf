"""Editing one factor: allow a word, forbid or boost a phrase, and leave everything else as it was.

A lexicon is edited exactly, phrase by phrase (`phrases`). A head is edited in its bias, by the smallest change that
gives the words their new push (`least_change`); it can pull a word far down, but only a lexicon can ban one.
"""

# Axes: N neutral states, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from factorlm.algebra import Factor
from factorlm.errors import InputError
from factorlm.factors import store, versions
from factorlm.factors.calibration import factor_strengths, head_strengths, neutral_states
from factorlm.factors.head import Head, HeadWeights, UnboundHead
from factorlm.factors.history import history
from factorlm.factors.least_change import Surroundings, least_change, wordings
from factorlm.factors.manifest import Change, LexiconSettings, Manifest
from factorlm.factors.phrases import edited_phrases
from factorlm.factors.seal import digest_of
from factorlm.factors.strength import StrengthMap
from factorlm.factors.unbound import bind
from factorlm.factors.wordlist import UnboundLexicon
from factorlm.models import CausalLM

FORBIDDEN = -4.0  # nats at exponent one that a head gives to what is forbidden
STRENGTH = 0.2  # nats per token at which effects are shown
MOVED_SHOWN = 5


@dataclass(frozen=True)
class Push:
    """How far a head pushes one way of writing a word, relative to its mean, at exponent one.

    Attributes:
        tokens: the word as written, token by token.
        before: nats, summed over the tokens.
        after: the same after the edit.
    """

    tokens: tuple[str, ...]
    before: float
    after: float


@dataclass(frozen=True)
class Collateral:
    """What an edit of a head did to the tokens that were not edited, at neutral states.

    Attributes:
        divergence: mean KL(old || new) of the next token, given that it is not an edited one, at one strength, in nats.
        correlation: of the old and new potentials within states, weighted by the base model.
        moved: the tokens whose potential moved most of those that the model might write, in nats at exponent one.
    """

    divergence: float
    correlation: float
    moved: dict[str, float]


@dataclass(frozen=True, eq=False)
class Edited:
    """An edited factor, not saved yet.

    Attributes:
        source: folder of the factor before.
        before: its card.
        manifest: the card after.
        tensors: content of the weights file after; None for a lexicon.
        old: the factor before, bound to the model.
        new: the factor after, bound to the model.
        words: what was allowed, forbidden or boosted.
        pushes: for a head, of each way of writing each word.
        collateral: for a head.
        notes: what people should know, a line each.
    """

    source: Path
    before: Manifest
    manifest: Manifest
    tensors: dict[str, Tensor] | None
    old: Factor
    new: Factor
    words: tuple[str, ...]
    pushes: dict[str, tuple[Push, ...]]
    collateral: Collateral | None
    notes: tuple[str, ...]

    def save(self, own: store.Store | None = None) -> Path:
        """Put it in the user's own store, where it goes first; the version before is kept for `versions.undo`.

        Args:
            own: the store that it was edited for, if that is another one.
        """
        return versions.save_edit(self.source, self.manifest, self.tensors, store=own)


def edit(
    lm: CausalLM,
    name: str,
    *,
    allow: Sequence[str] = (),
    forbid: Sequence[str] = (),
    boost: Mapping[str, float] | None = None,
    strength: float = STRENGTH,
    own: store.Store | None = None,
) -> Edited:
    """A factor after an edit; nothing is written before `Edited.save`.

    Args:
        lm: the model that the factor steers.
        name: of the factor, or its folder.
        allow: words that the factor shall leave alone.
        forbid: phrases to ban; a head pulls them by FORBIDDEN nats at exponent one.
        boost: nats for phrases, at exponent one.
        strength: at which the collateral is measured, in signed nats per token.
        own: the store that shall take it, by which it is numbered; None is the user's own.

    Raises:
        InputError: if there is nothing to edit, or it cannot be edited like that.
        IncompatibleError: if a head was made for another encoder.
        IntegrityError: if the factor's files are damaged.
    """
    boost = dict(boost or {})
    check_words(allow, forbid, boost)
    folder = store.folder_of(name)
    manifest = check_kind(folder)
    unbound = store.load(str(folder.absolute()))
    done = [
        *(f"allow {word!r}" for word in allow),
        *(f"forbid {phrase!r}" for phrase in forbid),
        *(f"boost {phrase!r} to {nats:g} nats" for phrase, nats in boost.items()),
    ]
    if manifest.calibration is not None:
        done.append("the calibration is from before")
    change = Change(
        version=manifest.version,
        what="; ".join(done),
        allow=tuple(allow),
        forbid=tuple(forbid),
        boost=boost,
        sha256=digest_of(folder),
    )
    version = versions.next_version(own or store.default_stores()[0], manifest)
    edited: dict[str, object] = {
        "version": version,
        "changes": (*manifest.changes, change),
        "effect": {},
        "response": None,
    }
    after = manifest.model_copy(update=edited)
    if isinstance(unbound, UnboundHead):
        targets = {**dict.fromkeys(allow, 0.0), **dict.fromkeys(forbid, FORBIDDEN), **boost}
        old = bind(unbound, lm)
        assert isinstance(old, Head)
        return _edited_head(old, folder, manifest, after, targets, forbid, strength)
    assert isinstance(unbound, UnboundLexicon)
    return _edited_lexicon(lm, unbound, folder, manifest, after, allow, forbid, boost)


def check_kind(folder: Path) -> Manifest:
    """The card of a factor that can be edited.

    Raises:
        InputError: if factors of its kind cannot.
    """
    manifest = store.read_manifest(folder)
    if manifest.kind not in ("head", "lexicon"):
        raise InputError(
            f"heads and lexica can be edited, {manifest.name} is a {manifest.kind}; multiply it by a lexicon: "
            "factorlm factor create NAME --word WORD --ban"
        )
    return manifest


def check_words(allow: Sequence[str], forbid: Sequence[str], boost: Mapping[str, float]) -> None:
    """Raise InputError for an empty word, one given twice, none at all, or a boost that is not finite."""
    words = [word.strip() for word in (*allow, *forbid, *boost)]
    if not words:
        raise InputError("a word to allow, forbid or boost is needed, got none; name one, or undo the last edit")
    for word in words:
        if not word:
            raise InputError("a word or phrase needs at least one visible character, got an empty one; leave it out")
        if words.count(word) > 1:
            raise InputError(f"each word is edited once, got {word!r} {words.count(word)} times; decide on one")
    for phrase, nats in boost.items():
        if not math.isfinite(nats):
            raise InputError(f"a boost is a finite number of nats, got {nats} for {phrase!r}; forbid it to ban it")


def _edited_lexicon(
    lm: CausalLM,
    unbound: UnboundLexicon,
    folder: Path,
    before: Manifest,
    after: Manifest,
    allow: Sequence[str],
    forbid: Sequence[str],
    boost: Mapping[str, float],
) -> Edited:
    assert isinstance(before.settings, LexiconSettings)
    exceptions = [word for word, action in history(before).items() if action == "allow"]
    settings, notes = edited_phrases(before.settings, exceptions, allow=allow, forbid=forbid, boost=boost)
    new = UnboundLexicon.from_settings(before.name, None, settings).bind(lm)
    measured = factor_strengths(lm, new) if before.strengths is not None else None
    new = replace(new, strengths=measured)
    after = after.model_copy(update={"settings": settings, "strengths": measured})
    words = (*allow, *forbid, *boost)
    return Edited(folder, before, after, None, unbound.bind(lm), new, words, {}, None, notes)


def _edited_head(
    old: Head,
    folder: Path,
    before: Manifest,
    after: Manifest,
    targets: Mapping[str, float],
    forbid: Sequence[str],
    strength: float,
) -> Edited:
    lm = old.lm
    ways = {word: wordings(lm, word) for word in targets}
    pinned = [way for word in history(before) for way in wordings(lm, word)]
    whole = sorted({way[0] for word in targets for way in ways[word] if len(way) == 1})
    around = Surroundings.of(lm, whole)
    move: dict[tuple[int, ...], float] = dict.fromkeys(pinned, 0.0)  # earlier edits stay what they are
    wanted: dict[tuple[int, ...], float] = {}
    for word, target in targets.items():
        for way in ways[word]:
            if wanted.setdefault(way, target) != target:
                raise InputError(f"{word!r} is given two pushes, as another spelling of another word; decide on one")
            move[way] = target - around.push(lm, old.weights, way)
    direction_KD = torch.stack([around.direction(lm, way) for way in move])
    change_D = least_change(around.covariance_DD, direction_KD, torch.tensor(list(move.values()), dtype=torch.float64))
    bias_D = (old.weights.bias_D.double().cpu() + change_D).float()
    weights = HeadWeights(bias_D, old.weights.up_DR.cpu(), old.weights.down_RD.cpu())
    measured = head_strengths(lm, weights)
    new = Head(old.name, weights.to(lm.device), lm, measured)
    pushes = {
        word: tuple(
            Push(
                tuple(shown(lm, token) for token in way),
                around.push(lm, old.weights, way),
                around.push(lm, weights, way),
            )
            for way in ways[word]
        )
        for word in targets
    }
    notes = []
    if forbid:
        notes.append(
            f"a head cannot ban: {FORBIDDEN:g} nats at exponent 1 make it rare, and a negative strength likelier; "
            "factorlm factor create NAME --word WORD --ban makes it impossible"
        )
    tensors = {"bias": bias_D, "up": weights.up_DR, "down": weights.down_RD}
    after = after.model_copy(update={"strengths": measured})
    collateral = _collateral(old, new, whole, strength)
    return Edited(folder, before, after, tensors, old, new, tuple(targets), pushes, collateral, tuple(notes))


def exponent_at(lm: CausalLM, factor: Factor, strength: float) -> float:
    """The exponent of a bound factor at a strength; plus or minus one where it has none or does not reach so far."""
    strengths: StrengthMap | None = getattr(factor, "strengths", None) or factor_strengths(lm, factor)
    try:
        return strengths.exponent(strength) if strengths else math.copysign(1.0, strength)
    except InputError:
        return math.copysign(1.0, strength)


def shown(lm: CausalLM, token: int) -> str:
    """A token for people, its blanks and line breaks visible."""
    text = lm.vocabulary.token_bytes[token].decode("utf-8", "replace")
    return text.replace(" ", "␣").replace("\n", "↵")


def _collateral(old: Head, new: Head, edited: Sequence[int], strength: float) -> Collateral:
    lm, states = old.lm, neutral_states(old.lm)
    log_prob_NV = states.log_prob_NV.clone()
    log_prob_NV[:, list(edited)] = -torch.inf
    prob_NV = log_prob_NV.softmax(-1)
    potentials = [head.potential(states.hidden_ND) for head in (old, new)]
    old_NV, new_NV = (
        (log_prob_NV + exponent_at(lm, head, strength) * potential_NV).log_softmax(-1)
        for head, potential_NV in zip((old, new), potentials, strict=True)
    )
    gap_NV = torch.where(prob_NV > 0, old_NV - new_NV, 0.0)
    divergence = float((old_NV.exp() * gap_NV).sum(-1).mean())
    x_NV, y_NV = (p - (prob_NV * p).sum(-1, keepdim=True) for p in potentials)
    covariance, variance_x, variance_y = (
        float((prob_NV * a * b).sum()) for a, b in ((x_NV, y_NV), (x_NV, x_NV), (y_NV, y_NV))
    )
    correlation = covariance / math.sqrt(max(variance_x * variance_y, 1e-30))
    usual_V = prob_NV.mean(0)
    moved_V = torch.where(usual_V > 1e-6, (y_NV - x_NV).mean(0), 0.0)
    top = moved_V.abs().topk(min(MOVED_SHOWN, len(moved_V))).indices.tolist()
    return Collateral(divergence, correlation, {shown(lm, token): round(float(moved_V[token]), 3) for token in top})
