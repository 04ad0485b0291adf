"""Noise augmentation: the same bias decoder learned with and without noise on its latents, read with noisy ones."""

# Axes: N windows.

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field, PositiveInt

from factorlm.diffusion import BiasLearning, Meanings, Schedule, learn_bias
from factorlm.diffusion.checks import Heeding, measure_decoders
from factorlm.diffusion.fitting import Encoded
from factorlm.diffusion.windows import WindowSettings, windows_of
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Curve, Section, Series
from factorlm.evaluation.guided.signals import CORPORA, Signals, as_row, gain, held_out, nats, of_row
from factorlm.evaluation.guided.writing import Guiding
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Corpus
from factorlm.settings import Config
from factorlm.text.cleaning import cleaned

WITH, WITHOUT = "learned with noise", "learned without"
NO_NOISE = Schedule(scale=1e6)


class Noise(Config):
    """Settings of this part.

    Attributes:
        learned_from: what both decoders learn from.
        num_windows: of that.
        bias: how the one with noise is learned; the other is learned without.
        measured_on: texts of another corpus.
        num_held_out: windows of these.
        shares: of the variance of latents that is signal.
    """

    learned_from: Corpus = Corpus(part="fairytale_qa/train_sections", name="tales", max_documents=None)
    num_windows: PositiveInt = 1500
    bias: BiasLearning = BiasLearning(steps=300, batch=256, weight_decay=0.03)
    measured_on: Corpus = CORPORA[0]
    num_held_out: Annotated[int, Field(ge=4)] = 60
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.1, 0.3, 0.5, 0.9, 1.0)


def measure_noise(guiding: Guiding, settings: Noise) -> Part:
    """Learn both decoders, and read held-out texts with latents of all levels of noise."""
    bench = guiding.bench
    meanings = guiding.loaded
    signals = Signals(num_windows=settings.num_held_out)
    texts = held_out(guiding, signals, settings.measured_on, meanings)
    found = {
        name: _heeding(guiding, settings, meanings, texts, name, schedule)
        for name, schedule in ((WITH, settings.bias.noise), (WITHOUT, NO_NOISE))
    }
    return _part(settings, found, bench.seed)


def _heeding(
    guiding: Guiding, settings: Noise, meanings: Meanings, texts: Encoded, name: str, schedule: Schedule
) -> list[Heeding]:
    bench, lm = guiding.bench, meanings.lm
    sources = [cleaned(document.text) for document in settings.learned_from.load(bench.data)]
    bench.used[settings.learned_from.part] = fingerprint(sources)
    learning = settings.bias.model_copy(update={"noise": schedule})
    key = {
        "what": "noise in learning", "settings": settings.model_dump(mode="json"),
        "learning": learning.model_dump(mode="json"),
        "meanings": guiding.key_of_meanings, "texts": fingerprint([w.prefix + w.continuation for w in texts.windows]),
        "sources": fingerprint(sources), "seed": bench.seed,
    }  # fmt: skip

    def work() -> list[dict[str, object]]:
        windows = windows_of(lm, sources, WindowSettings(ends=False))[: settings.num_windows]
        examples = Encoded.of(windows, meanings.encode).examples(lm, meanings.after)
        layer = learn_bias(lm, examples, learning, report=lambda s, n, of: bench.report(f"{name}: {s}", n, of))
        learned = replace(meanings, bias=layer.requires_grad_(False))
        read = measure_decoders(learned, texts.examples(lm, meanings.after), settings.shares, ("bias",), bench.seed)
        return [as_row(h) for h in read]

    return [of_row(row) for row in bench.cache.get(key, work)]


def _part(settings: Noise, found: dict[str, list[Heeding]], seed: int) -> Part:
    alone = found[WITH][0]
    bare = nats(alone, alone.true_N, seed)
    series = [
        Series(name=name, x=tuple(h.share for h in readings[1:]),
               y=tuple(nats(h, h.true_N, seed) for h in readings[1:]))
        for name, readings in found.items()
    ]  # fmt: skip
    series.append(Series(name="no latent", x=settings.shares, y=tuple(bare.value for _ in settings.shares),
                         is_reference=True))  # fmt: skip
    curve = Curve(
        title="Nats per token with and without noise in learning",
        x_label="share of the latent's variance that is signal", y_label="nats per token", series=tuple(series),
    )  # fmt: skip
    saved: dict[str, Estimate] = {}
    for ours, theirs in zip(found[WITH][1:], found[WITHOUT][1:], strict=True):
        saved[f"{ours.share:g}"] = gain(ours, theirs.true_N, seed)
    lead = (
        f"Bias decoders learned from {settings.num_windows} windows of {settings.learned_from.group}, read on "
        f"{settings.num_held_out} of {settings.measured_on.group} with their own latents under noise."
    )
    first, last = next(iter(saved.values())), list(saved.values())[-1]
    line = (
        f"Noise in learning saves the bias decoder {first} nats a token with latents of which "
        f"{settings.shares[0]:.0%} is signal, {last} with clean ones."
    )
    return Part(sections=(Section(title="Noise augmentation", lead=lead, blocks=(curve,)),),
                measures={"nats saved by noise in learning": saved}, headlines=(line,))  # fmt: skip
