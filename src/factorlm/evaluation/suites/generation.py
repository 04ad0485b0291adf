"""Generation: how varied and how likely a model's texts are, and how near to what people wrote after equal prompts."""

# Axes: P prompts.

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.evaluation import likelihood, mauve
from factorlm.evaluation.continuations import Side, by_unit, long_enough, prompts_of, varieties
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.diversity import VOCABULARY
from factorlm.evaluation.document import Cell, Column, Comparisons, Samples, Section, Table
from factorlm.evaluation.generated import HUMAN, Work, closeness, entropy, likely, variety
from factorlm.evaluation.intervals import adjusted, ratio_interval
from factorlm.evaluation.likelihood import Written
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.inference import Sampling
from factorlm.models.fetch import MODELS
from factorlm.settings import Config

Array = NDArray[np.float64]
ENCODED_TOGETHER = 128
MUCH_LEFT_OUT = 0.1


class Settings(Config):
    """Settings of the suite.

    Attributes:
        prompts: a part of the data with columns `prompt` and `continuation` (the human one), or with `text`, which is
            cut into both. Continuations as short as those of sentiment_prompts leave few words to compare.
        unit: column whose equal values mark prompts from one work, so that intervals take them together.
        num_prompts: how many.
        prompt_words: words of a prompt that is cut from a text.
        samples: continuations of each prompt.
        max_tokens: of a continuation.
        sampling: how tokens are drawn.
        temperatures: further ones to write with, for the picture of diversity against perplexity.
        words: that texts are cut to before they are compared; prompts with a shorter continuation on any side are left
            out, and counted.
        vocabulary: words that the expectation of Dist-n supposes.
        mauve: whether to compute MAUVE; "auto" does so from 500 texts on, where the package for it is installed.
        num_shown: prompts whose continuations are shown.
    """

    prompts: str = "fairytale_qa/train_sections"
    unit: str | None = "story"
    num_prompts: PositiveInt = 64
    prompt_words: PositiveInt = 16
    samples: PositiveInt = 1
    max_tokens: PositiveInt = 40
    sampling: Sampling = Sampling()
    temperatures: tuple[Annotated[float, Field(ge=0, le=100)], ...] = ()
    words: Annotated[int, Field(ge=4)] = 16
    vocabulary: Annotated[int, Field(ge=2)] = VOCABULARY
    mauve: Literal["auto", "on", "off"] = "auto"
    num_shown: Annotated[int, Field(ge=0)] = 6

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls()
        return cls(num_prompts=1000, max_tokens=128, words=64, temperatures=(0.6, 0.8))


def run(bench: Workbench, settings: Settings) -> Findings:
    """Write, read and measure.

    Raises:
        InputError: if MAUVE is asked for and its package is missing, or no human text is long enough.
    """
    if settings.mauve == "on":
        mauve.require()
    prompts = prompts_of(bench.data, settings.prompts, num_prompts=settings.num_prompts, words=settings.words,
                         prompt_words=settings.prompt_words, unit=settings.unit, seed=bench.seed)  # fmt: skip
    bench.used[settings.prompts] = fingerprint([p.text + p.human for p in prompts])
    written = [
        likelihood.write(bench, i, prompts, n=settings.samples, max_tokens=settings.max_tokens,
                         sampling=settings.sampling)
        for i in range(len(bench.models))
    ]  # fmt: skip
    lm = bench.models[0].model.lm
    human_ids = [tuple(likelihood.human_ids(lm, p, settings.max_tokens)) for p in prompts]
    sides = [*(_side(w, settings.words) for w in written),
             Side(HUMAN, [[p.human for p in prompts]], [human_ids], settings.words)]  # fmt: skip
    kept_P = long_enough(sides)
    units = [prompts[p].unit for p in kept_P]
    found = varieties(sides, kept_P, units, partial(_vectors, bench), vocabulary=settings.vocabulary, seed=bench.seed)
    work = Work(bench, settings, prompts, written, sides, found)
    sections = [
        *([variety(work)] if found else []),
        likely(work),
        *([closeness(work)] if found and len(kept_P) >= mauve.FEWEST_TEXTS else []),
        entropy(work),
        _length(work),
    ]
    work.comparisons[:] = adjusted(work.comparisons)
    if work.comparisons:
        note = (
            "Paired over prompts; measures of sets by a jackknife over groups of prompts. Better means more varied, "
            "likelier or closer to human text; more varied is no gain where texts are less likely."
        )
        block = Comparisons(title="Against its rivals", rows=tuple(work.comparisons), note=note)
        sections.append(Section(title="Comparisons", blocks=(block,)))
    if settings.num_shown:
        sections.append(_samples(work))
    return Findings(
        title="Generation: " + ", ".join(bench.names),
        sections=tuple(sections),
        measures=work.measures,
        comparisons=tuple(work.comparisons),
        headlines=tuple(work.headlines),
        cautions=tuple(_cautions(work, len(kept_P))),
    )


def _side(written: Written, words: int) -> Side:
    rows = list(zip(*written.samples, strict=True))
    ids = [[s.token_ids[:-1] if s.finish_reason == "end" else s.token_ids for s in row] for row in rows]
    return Side(written.name, [[s.text for s in row] for row in rows], ids, words)


def _vectors(bench: Workbench, texts: list[str]) -> Array:
    """Sentence vectors of length one; the encoder is no part of any model under test."""
    bench.judges_used["minilm"] = MODELS["minilm"].wheels[0].sha256[:16]

    def work(batch: list[str]) -> list[list[float]]:
        from factorlm.models.sentences import load_sentence_encoder

        return [[round(v, 6) for v in row] for row in load_sentence_encoder().encode(batch).tolist()]

    key = {"what": "sentence vectors", "encoder": bench.judges_used["minilm"]}
    vector_BD = np.array(bench.in_batches("sentence vectors", key, texts, ENCODED_TOGETHER, work))
    return np.asarray(vector_BD / np.linalg.norm(vector_BD, axis=1, keepdims=True))


def _cautions(work: Work, num_kept: int) -> list[str]:
    settings, num_prompts, words = work.settings, len(work.prompts), work.settings.words
    found = []
    if num_prompts < settings.num_prompts:
        found.append(
            f"{settings.prompts} has only {num_prompts} prompts that people continue with at least {words} words."
        )
    if num_kept < num_prompts:
        who = ", ".join(f"{s.name} {int((s.num_words_SP < words).any(0).sum())}" for s in work.sides[:-1])
        found.append(
            f"{num_prompts - num_kept} of {num_prompts} prompts are left out of diversity and closeness, because a "
            f"text there has fewer than {words} words ({who})"
            + ("; the rest is no fair choice." if num_prompts - num_kept > MUCH_LEFT_OUT * num_prompts else ".")
        )
    empty = [(s.name, int((s.num_words_SP == 0).sum())) for s in work.sides]
    if any(number for _, number in empty):
        found.append("Texts without a word: " + ", ".join(f"{name} {number}" for name, number in empty if number) + ".")
    found.append(
        "Diversity says nothing of quality, since noise is the most varied text there is: read it beside the "
        f"perplexity under {work.judge}, which in turn is lowest for dull and looping text."
    )
    found.append(
        f"Measures of diversity are of the first {words} words of {num_kept} texts; at other numbers they are others."
    )
    if settings.mauve != "off" and not mauve.is_installed():
        found.append(f"MAUVE was not computed, since its package is not installed: {mauve.INSTALL}.")
    if num_kept < mauve.FEWEST_TO_RANK:
        found.append(
            f"{num_kept} texts are too few to rank models by MAUVE or the frontier integral; at least "
            f"{mauve.FEWEST_TO_RANK} are needed."
        )
    return found


def _length(work: Work) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for i, side in enumerate(work.sides):
        total_U2 = by_unit(side.num_words_SP.mean(0), work.units)
        words = ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=work.seed)
        work.measures.setdefault("words", {})[side.name] = words
        empty = int((side.num_words_SP == 0).sum())
        short = int((side.num_words_SP < side.words).sum())
        if i == len(work.written):
            rows.append((side.name, None, words, None, None, None, empty, short))
            continue
        samples = work.written[i].samples
        reasons = [s.finish_reason for row in samples for s in row]
        tokens = likelihood.mean_length(samples, work.units, work.seed)
        work.measures.setdefault("tokens", {})[side.name] = tokens
        ends = (reasons.count(reason) / len(reasons) for reason in ("end", "stop", "length"))
        rows.append((side.name, tokens, words, *ends, empty, short))
    columns = (
        Column(title="texts of"),
        Column(title="tokens"),
        Column(title="words"),
        Column(title="ended", form=".0%"),
        Column(title="stopped at a string", form=".0%"),
        Column(title="cut off", form=".0%"),
        Column(title="without a word", form="d"),
        Column(title=f"under {work.settings.words} words", form="d"),
    )
    note = f"Means over texts as written, of at most {work.settings.max_tokens} tokens; human texts as they stand."
    return Section(
        title="Length", blocks=(Table(title="Length and ends", columns=columns, rows=tuple(rows), note=note),)
    )


def _samples(work: Work) -> Section:
    texts = [
        (f"{i + 1}. {side.name}", prompt.text, side.cut_SP[0][i])
        for i, prompt in enumerate(work.prompts[: work.settings.num_shown])
        for side in work.sides
    ]
    title = f"Continuations, cut to {work.settings.words} words"
    return Section(title="Samples", blocks=(Samples(title=title, texts=tuple(texts)),))
