"""Training a head: from labelled texts to a calibrated factor with its strength map and data card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.factors import advantage
from factorlm.factors.calibration import Calibrated, auc, calibrate, evidence, head_strengths
from factorlm.factors.examples import Example, evenly, fingerprint, split
from factorlm.factors.features import Features, encode, tokenized
from factorlm.factors.head import EncoderCard, Head, HeadWeights
from factorlm.factors.lowrank import MOST_TEXTS, fit_low_rank
from factorlm.factors.manifest import Calibration, DataCard, HeadSettings, Manifest, Source
from factorlm.factors.response import Judge, sentence_judge
from factorlm.factors.rollouts import rollouts
from factorlm.factors.separation import STRENGTH, Separation, separation
from factorlm.factors.shift import fit_shift
from factorlm.factors.strength import StrengthMap
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

ERROR = ", standard error"  # after the name of an effect on a card
PREFIX_LOSS = "loss of the prefix classifier, nats"


@dataclass(frozen=True)
class Description:
    """What people should know of a factor that training cannot find out.

    Attributes:
        name: of the factor.
        description: one line for lists.
        label: what positive and negative mean.
        licence: of the trained numbers, as the licences of the texts demand.
        sources: name, licence and credit of the training texts.
        recipe: how to train it again.
    """

    name: str
    description: str = ""
    label: str = ""
    licence: str = "unspecified"
    sources: tuple[tuple[str, str, str], ...] = ()
    recipe: str = ""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained head, ready for a store.

    Attributes:
        manifest: its card.
        weights: its numbers.
        seconds: time taken by each stage.
    """

    manifest: Manifest
    weights: HeadWeights
    seconds: dict[str, float]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The content of the weights file."""
        return {"bias": self.weights.bias_D, "up": self.weights.up_DR, "down": self.weights.down_RD}


def train_head(
    lm: CausalLM,
    examples: Sequence[Example],
    about: Description,
    *,
    tests: Mapping[str, Sequence[Example]] | None = None,
    rank: int = 0,
    own_texts: int = 0,
    judge: Judge | None = None,
    seed: int = 0,
    report: Report = quiet,
) -> Trained:
    """Learn a bias, scale it to a likelihood ratio, measure its strength map, and write its card.

    From labelled texts alone that takes seconds. With texts that the model writes itself, which it does once for all
    heads, the bias also learns which choices of the model lead to the attribute (factorlm.factors.advantage). With a
    rank, a map of that rank is learned on top of the bias, and kept if it steers better at equal divergence.

    Args:
        lm: the shared encoder.
        examples: labelled texts; a share of them is held out to stop and calibrate on.
        about: what the card shall say.
        tests: labelled texts of other origin to measure the evidence on, by name.
        rank: of the map, learned from at most MOST_TEXTS texts; 0 learns none.
        own_texts: how many texts of the model itself the bias learns from; 0 takes the labelled ones alone.
        judge: says which continuations have the attribute; the default is learned from the held-out texts.
        seed: of the order of texts, of first values and of what is drawn.
        report: told of progress.

    Raises:
        InputError: if there are too few texts, or the rank is not one of the encoder's width.
    """
    if not 0 <= rank <= lm.width:
        raise InputError(f"a rank from 0 to the width {lm.width} of {lm.name} is needed, got {rank}; 8 is usual")
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal start
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()

    parts = split(examples)
    train, dev = (_tokens_and_labels(lm, part) for part in (parts.train, parts.dev))
    bias_D = fit_shift(lm.unembedding_VD, train, dev, seed=seed, report=report)
    stage("learning the bias")
    dev_features = encode(lm, [e.text for e in parts.dev], report=report)
    stage("reading texts")
    dev_label_B = _labels(parts.dev)
    effect: dict[str, float] = {}
    if own_texts:
        written = rollouts(lm, own_texts, report=report)
        stage("writing texts")
        some = evenly(parts.train, advantage.MOST_TEXTS)
        read = encode(lm, [e.text for e in some], longest=advantage.LONGEST, report=report)
        stage("reading more texts")
        held_out = advantage.beginnings(dev_features), dev_label_B
        value = advantage.fit_value((read, _labels(some)), held_out, report=report)
        effect[PREFIX_LOSS] = round(value.dev_loss, 4)
        if value.is_informed:  # else it would teach noise
            bias_D = advantage.fit_advantage(lm.unembedding_VD, value, written, text_bias_D=bias_D)
        stage("learning values")
    fitted = _measured(lm, HeadWeights.shift(bias_D), dev_features, dev_label_B, report)
    stage("calibrating")
    if rank:
        some = evenly(parts.train, MOST_TEXTS)
        train_features = encode(lm, [e.text for e in some], report=report)
        bias = fitted.calibrated.weights
        weights = fit_low_rank(
            lm, bias, train_features, _labels(some), dev_features, dev_label_B, rank=rank, seed=seed, report=report
        )
        mapped = _measured(lm, weights, dev_features, dev_label_B, report)
        stage("learning the map")
        judge = judge or sentence_judge(parts.dev)[0]
        by_bias, by_map = (separation(lm, f.head(lm, about.name), judge, report=report) for f in (fitted, mapped))
        effect |= _effect(by_bias, "bias") | _effect(by_map, f"rank {rank}")
        fitted = mapped if by_map.exceeds(by_bias) else fitted
        stage("comparing at equal divergence")
    calibrated = fitted.calibrated
    test_auc = {name: measured_auc(lm, calibrated.weights, list(part), report) for name, part in (tests or {}).items()}
    stage("testing")
    manifest = Manifest(
        name=about.name,
        description=about.description,
        label=about.label,
        licence=about.licence,
        settings=HeadSettings(rank=calibrated.weights.rank),
        encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
        calibration=Calibration(
            scale=round(calibrated.scale, 4),
            prior=round(calibrated.prior, 4),
            dev_loss=round(calibrated.loss, 4),
            dev_auc=round(calibrated.auc, 4),
            test_auc={name: round(value, 4) for name, value in test_auc.items()},
        ),
        strengths=fitted.strengths,
        data=data_card(
            about,
            len(examples),
            fingerprint(examples),
            [
                Source(name=name, licence="", num_texts=len(part), fingerprint=fingerprint(part))
                for name, part in (tests or {}).items()
            ],
            own_texts=own_texts,
        ),
        effect=effect,
    )
    return Trained(manifest, calibrated.weights, seconds)


@dataclass(frozen=True, eq=False)
class _Measured:
    """A head after calibration, with its map from strength to exponent."""

    calibrated: Calibrated
    strengths: StrengthMap | None

    def head(self, lm: CausalLM, name: str) -> Head:
        return Head(name, self.calibrated.weights.to(lm.device), lm, self.strengths)


def _measured(
    lm: CausalLM, weights: HeadWeights, dev_features: Features, dev_label_B: Tensor, report: Report
) -> _Measured:
    calibrated = calibrate(lm, weights, dev_features, dev_label_B)
    report("calibrating", 1, 2)
    strengths = head_strengths(lm, calibrated.weights)
    report("calibrating", 2, 2)
    return _Measured(calibrated, strengths)


def effect_key(what: str) -> str:
    """Where a card keeps the separation of a head; its standard error stands under the same with ERROR."""
    return f"separation at {STRENGTH}, {what}"


def _effect(measured: Separation, what: str) -> dict[str, float]:
    key = effect_key(what)
    return {key: round(measured.value, 4), key + ERROR: round(measured.standard_error, 4)}


def measured_auc(lm: CausalLM, weights: HeadWeights, examples: list[Example], report: Report = quiet) -> float:
    """Area under the curve of the head's evidence on labelled texts."""
    features = encode(lm, [e.text for e in examples], report=report)
    return auc(evidence(lm, weights, features, (1.0,))[0], _labels(examples))


def _labels(examples: Sequence[Example]) -> Tensor:
    return torch.tensor([float(e.is_positive) for e in examples])


def _tokens_and_labels(lm: CausalLM, examples: Sequence[Example]) -> tuple[list[list[int]], Tensor]:
    rows = tokenized(lm, [e.text for e in examples])
    kept = [i for i, row in enumerate(rows) if row]
    return [rows[i] for i in kept], _labels([examples[i] for i in kept])


def data_card(
    about: Description, num_texts: int, digest: str, tests: Sequence[Source] = (), *, own_texts: int = 0
) -> DataCard:
    """Where a head comes from; texts without a named source are the user's own."""
    sources = about.sources or (("texts of the user", "unspecified", ""),)
    return DataCard(
        train=tuple(
            Source(name=name, licence=licence, credit=credit, num_texts=num_texts, fingerprint=digest)
            for name, licence, credit in sources
        ),
        test=tuple(tests),
        own_texts=own_texts,
        recipe=about.recipe,
    )
