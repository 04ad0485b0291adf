"""From texts to a prior over meanings: windows, vectors, denoiser, decoders, and what all this is worth on other texts.

Every stage that takes long keeps a checkpoint, so a run that was stopped goes on when it is asked for again.
"""

# Axes: C numbers of a vector, N windows.

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.diffusion.checks import measure_decoders, measure_heed, measure_proposals
from factorlm.diffusion.collection import Collection
from factorlm.diffusion.decoding import BiasLearning, Examples, SoftLearning, learn_bias, learn_soft
from factorlm.diffusion.files import Origin
from factorlm.diffusion.guides import Standard
from factorlm.diffusion.learning import DenoiserLearning, learn_denoiser
from factorlm.diffusion.meanings import DecoderKind, Encode, Meanings, Proposing
from factorlm.diffusion.windows import Window, WindowSettings, windows_of
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

LEAST_WINDOWS = 40  # to learn from
HEEDED = 64  # prefixes that texts are written for, twice, to see how far these move with latents
LEAST_HEED = 0.01  # below it nothing could be guided
MOST_HELD_OUT = 0.2  # of the texts


class MeaningsFitting(Config):
    """How a prior over meanings is learned.

    Attributes:
        windows: how texts are cut.
        most: windows that the denoiser learns from, at most.
        decoded: of these, windows that decoders learn from, at most.
        held_out: windows of other texts to measure on, at most.
        shown: continuations that are kept as they are, by which latents are shown; 0 keeps no text.
        decoders: that are learned.
        denoiser: how it is learned.
        bias: how the bias decoder is learned.
        soft: how the soft decoder is learned.
        seed: of which texts are held out and which windows are taken.
    """

    windows: WindowSettings = WindowSettings()
    most: PositiveInt = 40_000
    decoded: PositiveInt = 6_000
    held_out: PositiveInt = 300
    shown: Annotated[int, Field(ge=0)] = 2000
    decoders: tuple[DecoderKind, ...] = ("bias", "soft")
    denoiser: DenoiserLearning = DenoiserLearning()
    bias: BiasLearning = BiasLearning()
    soft: SoftLearning = SoftLearning()
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Encoded:
    """Windows and the vectors of both halves.

    Attributes:
        windows: N of them.
        before_NC: vectors of prefixes.
        after_NC: vectors of continuations.
    """

    windows: Sequence[Window]
    before_NC: Tensor
    after_NC: Tensor

    @staticmethod
    def of(windows: Sequence[Window], encode: Encode) -> Encoded:
        """With vectors."""
        vector_NC = encode([w.prefix for w in windows] + [w.continuation.strip() for w in windows])
        return Encoded(windows, vector_NC[: len(windows)], vector_NC[len(windows) :])

    def examples(self, lm: CausalLM, after: Standard, most: int | None = None) -> Examples:
        """The first windows as decoders learn from them."""
        some = self.windows[:most]
        return Examples(
            [[*lm.start_ids, *w.prefix_ids] for w in some], [list(w.continuation_ids) for w in some],
            after.latent(self.after_NC[:most]),
        )  # fmt: skip


def fit_meanings(
    lm: CausalLM, encode: Encode, texts: Sequence[str], settings: MeaningsFitting, *, origin: Origin = Origin(),  # noqa: B008
    folder: Path | None = None, report: Report = quiet,
) -> tuple[Meanings, Origin]:  # fmt: skip
    """Learn a denoiser and decoders; gives them and their origin with what they are worth on held-out texts.

    Args:
        lm: the language model that decodes.
        encode: makes vectors.
        texts: documents; windows of one are all learned from or all measured on.
        settings: how.
        origin: what is known of the texts.
        folder: of checkpoints; None keeps none.
        report: told of progress.

    Raises:
        InputError: if there are too few windows.
    """
    began = time.monotonic()
    learned_from, measured_on = cut(lm, texts, settings)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    train, held_out = Encoded.of(learned_from, encode), Encoded.of(measured_on, encode)
    before, after = Standard.of(train.before_NC), Standard.of(train.after_NC)
    latent_NC, condition_NC = after.latent(train.after_NC), before.latent(train.before_NC)

    def kept(name: str) -> Path | None:
        return folder / f"{name}.safetensors" if folder is not None else None

    denoiser = learn_denoiser(latent_NC, condition_NC, settings.denoiser, checkpoint=kept("denoiser"), report=report)
    meanings = Meanings(lm, encode, before, after, denoiser.requires_grad_(False), collection=_shown(train, settings))
    examples = train.examples(lm, after, settings.decoded)
    if "bias" in settings.decoders:
        bias = learn_bias(lm, examples, settings.bias, checkpoint=kept("bias"), report=report)
        meanings = replace(meanings, bias=bias.requires_grad_(False))
    if "soft" in settings.decoders:
        soft = learn_soft(lm, examples, settings.soft, checkpoint=kept("soft"), report=report)
        meanings = replace(meanings, soft=soft.requires_grad_(False))
    meanings = replace(meanings, heed=_heed(meanings, held_out, settings, report))
    measured = worth(meanings, held_out, settings, report)
    changes = {"num_windows": len(learned_from), "measured": measured, "seconds": round(time.monotonic() - began, 1)}
    return meanings, origin.model_copy(update=changes)


def _shown(train: Encoded, settings: MeaningsFitting) -> Collection | None:
    if not settings.shown:
        return None
    texts = [w.continuation.strip() for w in train.windows]
    return Collection.of(texts, train.after_NC, settings.shown, settings.seed)


def _heed(meanings: Meanings, held_out: Encoded, settings: MeaningsFitting, report: Report) -> dict[DecoderKind, float]:
    prefixes = [w.prefix for w in held_out.windows[:HEEDED]]
    return {
        kind: max(LEAST_HEED, measure_heed(meanings, prefixes, kind, seed=settings.seed, report=report))
        for kind in meanings.kinds
    }


def cut(lm: CausalLM, texts: Sequence[str], settings: MeaningsFitting) -> tuple[list[Window], list[Window]]:
    """Windows to learn from and windows of other texts to measure on, in a random order that the seed fixes.

    Raises:
        InputError: if there are too few.
    """
    rng = random.Random(settings.seed)
    order = rng.sample(list(texts), len(texts))
    held_out: list[Window] = []
    num_held_out = 0
    for text in order[: int(MOST_HELD_OUT * len(order))]:
        if len(held_out) >= settings.held_out:
            break
        held_out += windows_of(lm, [text], settings.windows)
        num_held_out += 1
    train = windows_of(lm, order[num_held_out:], settings.windows)
    if len(train) < LEAST_WINDOWS or len(held_out) < 2:
        raise InputError(
            f"at least {LEAST_WINDOWS} windows to learn from and 2 of other texts are needed, got {len(train)} and "
            f"{len(held_out)} of {len(texts)} texts; give more texts, or smaller windows"
        )
    train = rng.sample(train, min(len(train), settings.most))
    return train, rng.sample(held_out, min(len(held_out), settings.held_out))


def worth(meanings: Meanings, held_out: Encoded, settings: MeaningsFitting, report: Report) -> dict[str, float]:
    """What a denoiser and decoders are worth on held-out windows: cosines, and nats per token."""
    proposals = measure_proposals(
        meanings, [w.prefix for w in held_out.windows], held_out.after_NC, Proposing(), settings.seed
    )
    found = {
        "cosine of proposals": proposals.true_N.mean(),
        "cosine of proposals to other continuations": proposals.other_N.mean(),
        "windows measured on": torch.tensor(float(len(held_out.windows))),
    }
    examples = held_out.examples(meanings.lm, meanings.after)
    alone, *heeding = measure_decoders(meanings, examples, (1.0,), settings.decoders, settings.seed, report)
    found["nats per token, no latent"] = per_token(alone.true_N, alone.num_tokens_N)
    for reading in heeding:
        name = f"nats per token, {reading.decoder} decoder"
        found[name] = per_token(reading.true_N, reading.num_tokens_N)
        found[f"{name}, other latents"] = per_token(reading.other_N, reading.num_tokens_N)
    found |= {f"heed of the {kind} decoder": torch.tensor(heed) for kind, heed in meanings.heed.items()}
    return {name: round(float(value), 4) for name, value in found.items()}


def per_token(nats_N: Tensor, num_tokens_N: Tensor) -> Tensor:
    """Mean over all tokens of texts with so many each."""
    return (nats_N * num_tokens_N).sum() / num_tokens_N.sum()
