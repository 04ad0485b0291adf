"""Claims about measures themselves: what else than the texts they depend on."""

# Axes: C columns, D documents, G groups, R resamples.

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.claims.claim import Claim, ClaimBench, Outcome, Verdict, all_of, decide
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.diversity import (
    distinct,
    expectation_adjusted_distinct,
    jackknife_interval,
    leave_groups_out,
    words_of,
)
from factorlm.evaluation.intervals import Estimate, bootstrap
from factorlm.evaluation.perplexity import token_log_probs
from factorlm.evaluation.texts import Corpus
from factorlm.settings import Config

Array = NDArray[np.float64]
FLAT = 0.05  # change of a measure that still counts as none


class LengthSettings(Config):
    """Texts that people wrote, cut to several lengths.

    Attributes:
        corpus: whose documents have at least as many words as the last length.
        texts: how many of them.
        lengths: in words, rising.
        order: of n-grams.
    """

    corpus: Corpus = Corpus(part="brown/all", max_documents=None, max_characters=3000)
    texts: PositiveInt = 500
    lengths: tuple[int, ...] = (50, 100, 200)
    order: PositiveInt = 2


def _by_length(bench: ClaimBench, settings: LengthSettings) -> tuple[dict[str, Array], dict[str, Array]]:
    """Dist-n and EAD at each length: of all texts [L], and without each group of texts [G, L]."""
    documents = [document.text for document in settings.corpus.load(bench.data)]
    whole = [words for words in map(words_of, documents) if len(words) >= settings.lengths[-1]][: settings.texts]
    if len(whole) < settings.texts:
        raise InputError(
            f"{settings.texts} texts of {settings.lengths[-1]} words are needed, got {len(whole)} in "
            f"{settings.corpus.part}; take fewer or shorter ones"
        )
    bench.used[settings.corpus.part] = fingerprint([" ".join(words) for words in whole])
    value: dict[str, Array] = {}
    deleted: dict[str, Array] = {}
    for name, measure in (("distinct", distinct), ("adjusted", expectation_adjusted_distinct)):
        value[name], deleted[name] = leave_groups_out(
            lambda index, measure=measure: np.array(  # type: ignore[misc]
                [measure([whole[i][:length] for i in index], settings.order) for length in settings.lengths]
            ),
            range(len(whole)),
            seed=bench.seed,
        )
    return value, deleted


def _distinct_falls(bench: ClaimBench, settings: LengthSettings) -> Outcome:
    value, deleted = _by_length(bench, settings)
    found_L, found_GL = value["distinct"], deleted["distinct"]
    steps = [
        jackknife_interval(float(found_L[i + 1] - found_L[i]), found_GL[:, i + 1] - found_GL[:, i], settings.texts)
        for i in range(len(found_L) - 1)
    ]
    shown = ", ".join(f"{share:.3f}" for share in found_L)
    return Outcome(
        measured=f"Dist-{settings.order} {shown} of the same {settings.texts} texts cut to "
        f"{', '.join(map(str, settings.lengths))} words",
        numbers={"distinct": found_L.tolist(), "steps": [step.model_dump() for step in steps]},
        verdict=all_of([decide(step, 0.0, above=False) for step in steps]),
    )


DISTINCT_FALLS_WITH_LENGTH = Claim(
    name="distinct-falls-with-length",
    sentence="Dist-n falls as texts get longer, whoever wrote them, so unequal lengths cannot be ranked by it",
    source="Liu et al. 2022",
    reported="",
    rule="The same texts are cut to several lengths. Holds if the 95 % interval (jackknife over texts) of each step of "
    "Dist-2 lies below zero, does not hold if one lies above; else it is not shown.",
    settings=LengthSettings(),
    run=_distinct_falls,
    needs=("brown/all",),
    minutes=0.2,
)


def _adjusted_stays(bench: ClaimBench, settings: LengthSettings) -> Outcome:
    value, deleted = _by_length(bench, settings)
    found_L, found_GL = value["adjusted"], deleted["adjusted"]
    steps = [
        jackknife_interval(
            float(found_L[i + 1] / found_L[i] - 1), found_GL[:, i + 1] / found_GL[:, i] - 1, settings.texts
        )
        for i in range(len(found_L) - 1)
    ]
    return Outcome(
        measured="; ".join(
            f"from {a} to {b} words EAD-{settings.order} changes by {100 * (step.value or 0):+.1f} % "
            f"({100 * (step.low or 0):+.1f} to {100 * (step.high or 0):+.1f})"
            for (a, b), step in zip(pairwise(settings.lengths), steps, strict=True)
        ),
        numbers={"adjusted": found_L.tolist(), "steps": [step.model_dump() for step in steps]},
        verdict=all_of([within(step, FLAT) for step in steps]),
    )


def within(found: Estimate, most: float) -> Verdict:
    """Whether a change is nearer to zero than `most`, by its whole interval."""
    if found.low is None or found.high is None:
        return "not shown"
    if -most < found.low and found.high < most:
        return "holds"
    return "does not hold here" if found.low > most or found.high < -most else "not shown"


ADJUSTED_DISTINCT_STAYS = Claim(
    name="adjusted-distinct-stays",
    sentence="Dist-n over its expectation (EAD) does not depend on the length of texts",
    source="Liu et al. 2022",
    reported="",
    rule=f"The same texts are cut to several lengths. Holds if the 95 % interval (jackknife over texts) of the change "
    f"of EAD-2 at each step lies within {FLAT:.0%} of none, does not hold if one lies outside; else it is not shown.",
    settings=LengthSettings(),
    run=_adjusted_stays,
    needs=("brown/all",),
    minutes=0.2,
)


class StrideSettings(Config):
    """How texts are read.

    Attributes:
        model: that reads.
        corpus: what it reads.
        window: tokens read at once.
        strides: by which the window moves, falling.
    """

    model: str = "smollm2"
    corpus: Corpus = Corpus(part="wikitext/wikitext2_test", documents="headings", max_documents=10, max_characters=2500)
    window: PositiveInt = 256
    strides: tuple[int, ...] = (256, 128, 64)


def _stride(bench: ClaimBench, settings: StrideSettings) -> Outcome:
    work = bench.workbench(settings.model)
    [composed] = work.models
    texts = [document.text for document in settings.corpus.load(bench.data)]
    bench.used[settings.corpus.part] = fingerprint(texts)
    nats = []
    for stride in settings.strides:
        key = {"what": "nats", "model": composed.fingerprint, "window": settings.window, "stride": stride}

        def read(batch: list[str], stride: int = stride) -> list[float]:
            found = token_log_probs(composed.model, batch, window=settings.window, stride=stride)
            return [-float(log_prob_T.sum()) for log_prob_T in found]

        nats.append(work.in_batches(f"stride {stride}", key, texts, 2, read))
    values_DC = np.array([*nats, [len(text.encode()) for text in texts]], float).T
    bits = [
        bootstrap(values_DC, lambda mean_RC, i=i: mean_RC[:, i] / mean_RC[:, -1] / math.log(2), seed=bench.seed)  # type: ignore[misc]
        for i in range(len(settings.strides))
    ]
    steps = [
        bootstrap(
            values_DC,
            lambda mean_RC, i=i: (mean_RC[:, i + 1] - mean_RC[:, i]) / mean_RC[:, -1] / math.log(2),  # type: ignore[misc]
            seed=bench.seed,
        )
        for i in range(len(settings.strides) - 1)
    ]
    shown = ", ".join(f"{found.value:.3f} at {stride}" for found, stride in zip(bits, settings.strides, strict=True))
    return Outcome(
        measured=f"bits per byte of {len(texts)} articles by stride, windows of {settings.window} tokens: {shown}",
        numbers={
            "bits_per_byte": [found.model_dump() for found in bits],
            "steps": [found.model_dump() for found in steps],
        },
        verdict=all_of([decide(step, 0.0, above=False) for step in steps]),
    )


SHORTER_STRIDE = Claim(
    name="shorter-stride-lowers-perplexity",
    sentence="The same window moved by a shorter stride gives a lower perplexity",
    source="documentation of transformers, perplexity of fixed-length models",
    reported="",
    rule="Holds if the 95 % interval (paired bootstrap over documents) of the change of bits per byte at each "
    "shortening of the stride lies below zero, does not hold if one lies above; else it is not shown.",
    settings=StrideSettings(),
    run=_stride,
    needs=("smollm2", "wikitext/wikitext2_test"),
    minutes=3,
)
