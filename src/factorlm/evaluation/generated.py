"""What a report says of texts that models wrote: sections on variety, likelihood, closeness and entropy."""

# Axes: B texts, P prompts, S samples of a prompt, U units.

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from factorlm.evaluation import likelihood, mauve
from factorlm.evaluation.continuations import (
    EACH,
    SEQ_REP,
    WHOLE,
    Measure,
    Prompt,
    Side,
    Variety,
    by_unit,
    index_of,
)
from factorlm.evaluation.diversity import PERIOD, TAIL, diversity, jackknife_comparison, words_of
from factorlm.evaluation.document import Bar, Block, Column, Curve, Intervals, Scatter, Section, Series, Table
from factorlm.evaluation.intervals import Comparison, Estimate, compare, ratio_interval
from factorlm.evaluation.likelihood import Written, perplexity
from factorlm.evaluation.workbench import Workbench

if TYPE_CHECKING:
    from factorlm.evaluation.suites.generation import Settings

HUMAN = "human text"
BINS = 10  # of positions in the picture of entropy
RELATIVE = ("diversity", "entropy_bits", "dist_1", "dist_2", "dist_3", "self_bleu", "compression", "zipf", "vendi")
SHARES = ("rep_2", "rep_3", "rep_4", SEQ_REP.key, "loops")
COMPARED = ("diversity", SEQ_REP.key, "dist_2", "self_bleu", "vendi")
PERPLEXITIES = (
    Measure("base_perplexity", "under the base alone"),
    Measure("own_perplexity", "under the model itself"),
    Measure("own_perplexity_of_human_text", "of human text, under the model"),
)
ENTROPIES = (
    Measure("entropy", "entropy on its own texts, nats"),
    Measure("entropy_on_human_text", "entropy on human text, nats"),
    Measure("entropy_slope", "slope on its own texts, nats per 100 tokens"),
    Measure("entropy_slope_on_human_text", "slope on human text, nats per 100 tokens"),
    Measure("entropy_drift", "drift: the one slope less the other"),
)


@dataclass(frozen=True, eq=False)
class Work:
    """All texts, and what is found about them as the run goes on.

    Attributes:
        bench: whose first model's language model is the judge of likelihood.
        settings: of the suite.
        prompts: with their human continuations.
        written: by each model.
        sides: each model's texts, and the human ones last.
        varieties: of each side over the prompts that are long enough on all sides; empty if there are none.
        measures: by name, then by side.
        headlines: so far.
        comparisons: so far.
    """

    bench: Workbench
    settings: Settings
    prompts: list[Prompt]
    written: list[Written]
    sides: list[Side]
    varieties: list[Variety]
    measures: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    headlines: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def units(self) -> list[str]:
        """Of the prompts."""
        return [p.unit for p in self.prompts]

    @property
    def seed(self) -> int:
        """Of all randomness."""
        return self.bench.seed

    @property
    def names(self) -> list[str]:
        """Of all sides."""
        return [s.name for s in self.sides]

    @property
    def judge(self) -> str:
        """Name of the judge of likelihood."""
        return self.bench.models[0].model.lm.name

    def table(self, title: str, measures: Iterable[Measure], note: str, names: Sequence[str] = ()) -> Table:
        """A row for each measure, a column for each side."""
        names = names or self.names
        rows = tuple((m.title, *(self.measures[m.key].get(n) for n in names)) for m in measures)
        return Table(title=title, columns=tuple(Column(title=t) for t in ("measure", *names)), rows=rows, note=note)


def variety(work: Work) -> Section:
    """Measures of single texts and of all together, beside those of human text."""
    words, human, seed = work.settings.words, work.varieties[-1], work.seed
    each = (*EACH, SEQ_REP)
    for measure in (*each, *WHOLE):
        work.measures[measure.key] = {
            side.name: variety.estimate(measure.key, seed)
            for side, variety in zip(work.sides, work.varieties, strict=True)
        }
    repeated = work.table(
        "Repetition in single texts",
        each,
        f"Means over texts of {words} words, with bootstrap intervals. rep-n is the share of n-grams that the text "
        f"held before. A loop repeats with a period of at most {PERIOD} words over the last {TAIL}, and takes texts of "
        "that length. Tokens are those of each model, equally many of each text.",
    )
    together = work.table(
        "Variety of all texts together",
        WHOLE,
        f"{len(human.unit_P)} texts of {words} words on each side. Dist-n is the share of different n-grams, EAD-2 "
        f"that of different bigrams in those of as many draws from {work.settings.vocabulary:,} equally likely ones. "
        'Self-BLEU is BLEU-4 of each text against all others, 0 to 100 (smoothing "exp"). Compression is bytes over '
        "bytes in LZMA2. The Zipf exponent is fitted by maximum likelihood. Cosine and Vendi score are of MiniLM "
        "sentence vectors. Intervals come from a jackknife that leaves out groups of prompts: resampling would repeat "
        "texts.",
    )
    relative = Intervals(
        title="Relative to human text",
        x_label="difference from human text",
        series=tuple(work.names[:-1]),
        bars=tuple(
            Bar(
                label=m.title.split(":")[0],
                values=tuple(v.relative_to(human, m.key, seed) for v in work.varieties[:-1]),
            )
            for m in (*each, *WHOLE)
            if m.key in RELATIVE
        ),
        zero=0.0,
        is_percent=True,
        note="Self-BLEU, compression and the Zipf exponent rise with sameness, the others with variety.",
    )
    shares = Intervals(
        title="Repetition",
        x_label="share",
        series=tuple(work.names),
        bars=tuple(
            Bar(label=m.title, values=tuple(work.measures[m.key][n] for n in work.names))
            for m in each
            if m.key in SHARES and work.measures[m.key][HUMAN].value is not None
        ),
        is_percent=True,
    )
    blocks: list[Block] = [repeated, together, relative, shares]
    if work.settings.samples > 1:
        within = Measure("cosine_within_prompts", "mean cosine of two samples of one prompt")
        models = list(zip(work.names[:-1], work.varieties[:-1], strict=True))
        work.measures[within.key] = {name: variety.cosine_within_prompts(seed) for name, variety in models}
        note = "High where a model says the same each time."
        blocks.append(work.table("Samples of one prompt", (within,), note, work.names[:-1]))
    for name, variety in zip(work.names[:-1], work.varieties[:-1], strict=True):
        single, all_texts = (variety.relative_to(human, key, seed) for key in ("diversity", "dist_2"))
        value = {key: work.measures[key] for key in ("diversity", "dist_2")}
        work.headlines.append(
            f"In {words} words, texts of {name} repeat themselves {_than(single, 'as much as', 'less', 'more')} human "
            f"text (diversity {value['diversity'][name]}, human {value['diversity'][HUMAN]}); together they are "
            f"{_than(all_texts, 'as varied as', 'more varied', 'less varied')} human text (Dist-2 "
            f"{value['dist_2'][name]}, human {value['dist_2'][HUMAN]})."
        )
    _compare_varieties(work)
    lead = (
        f"Words are runs of letters and digits in lower case. Every text is cut to {words} of them; "
        f"{len(human.unit_P)} of {len(work.prompts)} prompts have texts that long on every side. Human text continues "
        "the same prompts."
    )
    return Section(title="Diversity", lead=lead, blocks=tuple(blocks))


def _than(relative: Estimate, equal: str, above: str, below: str) -> str:
    if relative.low is None or relative.high is None or relative.low <= 0 <= relative.high:
        return f"about {equal}"
    return f"{above if relative.low > 0 else below} than"


def _compare_varieties(work: Work) -> None:
    first = work.varieties[0]
    for name, rival in zip(work.names[1:-1], work.varieties[1:-1], strict=True):
        for m in (*EACH, SEQ_REP, *WHOLE):
            if m.key not in COMPARED or m.lower_is_better is None:
                continue
            if m.key in first.each_P:
                ours_U2, theirs_U2 = (by_unit(v.each_P[m.key], first.unit_P) for v in (first, rival))
                found = compare(m.title, (work.names[0], ours_U2), (name, theirs_U2), lower_is_better=m.lower_is_better,
                                statistic=lambda mean_R2: mean_R2[:, 0] / mean_R2[:, 1], seed=work.seed)  # fmt: skip
            else:
                i = index_of(m.key)
                found = jackknife_comparison(
                    m.title, (work.names[0], name), float(first.whole_M[i] - rival.whole_M[i]),
                    first.deleted_GM[:, i] - rival.deleted_GM[:, i], first.num_units, lower_is_better=m.lower_is_better,
                )  # fmt: skip
            work.comparisons.append(found)


def likely(work: Work) -> Section:
    """Perplexities of the texts, and diversity against them."""
    price = partial(perplexity, units=work.units, seed=work.seed)
    human = price(likelihood.judged_human(work.bench, work.prompts, work.written[0], work.settings.max_tokens))
    work.measures["base_perplexity"] = {w.name: price(w.judged_P2) for w in work.written} | {HUMAN: human}
    work.measures["own_perplexity"] = {w.name: price(w.own_P2) for w in work.written}
    work.measures["own_perplexity_of_human_text"] = {w.name: price(w.human_P2) for w in work.written}
    table = work.table(
        "Perplexity of texts",
        PERPLEXITIES,
        f"Per token, given the prompt, of whole texts as drawn. The base is {work.judge}. Probabilities are those "
        "before temperature and truncation.",
    )
    blocks: list[Block] = [table]
    if work.varieties:
        at_human = (work.measures["base_perplexity"][HUMAN],), (work.measures["diversity"][HUMAN],)
        yardstick = Series(name=HUMAN, x=at_human[0], y=at_human[1], labels=(HUMAN,), is_reference=True)
        note = "Near human text is best: likelier and less varied is dull, less likely and more varied is noise."
        blocks.append(
            Scatter(
                title="Diversity against perplexity",
                x_label=f"perplexity under {work.judge} alone",
                y_label="diversity of single texts",
                series=(*(_frontier(work, i) for i in range(len(work.written))), yardstick),
                note=note + (" Labels are temperatures." if work.settings.temperatures else ""),
            )
        )
    for rival in work.written[1:]:
        ours_U2, theirs_U2 = (by_unit(w.judged_P2, work.units) for w in (work.written[0], rival))
        work.comparisons.append(
            compare("perplexity under the base alone", (work.names[0], ours_U2), (rival.name, theirs_U2),
                    statistic=lambda mean_R2: np.exp(mean_R2[:, 0] / mean_R2[:, 1]), lower_is_better=True,
                    seed=work.seed)
        )  # fmt: skip
    for w in work.written:
        work.headlines.append(
            f"Under {work.judge} alone, texts of {w.name} have a perplexity of "
            f"{work.measures['base_perplexity'][w.name]}, and human text has one of {human}."
        )
    lead = (
        f"The judge is {work.judge}, from which factors steer away, so it is not a neutral one: its own plain text has "
        "the advantage."
    )
    return Section(title="Likelihood", lead=lead, blocks=tuple(blocks))


def _frontier(work: Work, index: int) -> Series:
    """Diversity against perplexity of a model at each temperature, in their order."""
    settings, name = work.settings, work.names[index]
    points = {settings.sampling.temperature: [work.measures[key][name] for key in ("base_perplexity", "diversity")]}
    for temperature in settings.temperatures:
        if temperature in points:
            continue
        sampling = settings.sampling.model_copy(update={"temperature": temperature})
        samples = likelihood.draw(work.bench, index, work.prompts, n=settings.samples, max_tokens=settings.max_tokens,
                                  sampling=sampling)  # fmt: skip
        words_B = [words_of(s.text)[: settings.words] for row in samples for s in row]
        value_B = np.array([diversity(words) if len(words) == settings.words else math.nan for words in words_B])
        total_U2 = by_unit(value_B, likelihood.repeated(work.units, len(value_B)))
        cost_P2 = likelihood.judged(work.bench, index, work.prompts, samples)
        points[temperature] = [
            perplexity(cost_P2, work.units, work.seed),
            ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=work.seed),
        ]
        for key, found in zip(("base_perplexity", "diversity"), points[temperature], strict=True):
            work.measures.setdefault(f"{key}/temperature {temperature:g}", {})[name] = found
    order = [t for t in sorted(points) if all(found.value is not None for found in points[t])]
    labels = tuple(f"{t:g}" for t in order) if settings.temperatures else (name,) * len(order)
    return Series(name=name, x=tuple(points[t][0] for t in order), y=tuple(points[t][1] for t in order), labels=labels)


def closeness(work: Work) -> Section:
    """MAUVE and the frontier integral of each model's texts against human ones."""
    human, units = work.varieties[-1].vector_SPD[0], work.varieties[-1].unit_P
    # The first sample of each prompt, so that both sides have equally many texts.
    vectors = {name: v.vector_SPD[0] for name, v in zip(work.names[:-1], work.varieties[:-1], strict=True)}
    n, wanted = len(units), work.settings.mauve
    is_enough = n >= mauve.FEWEST_TO_RANK
    is_wanted = wanted == "on" or (wanted == "auto" and is_enough and mauve.is_installed())
    measures: dict[str, mauve.Measure] = {"MAUVE": mauve.mauve} if is_wanted else {}
    measures["frontier integral"] = mauve.clustered_frontier_integral
    rows: list[Measure] = []
    for title, measure in measures.items():
        key = title.lower().replace(" ", "_")
        found = {name: mauve.closeness(measure, human, v, units, seed=work.seed) for name, v in vectors.items()}
        whole = {name: f.estimate for name, f in found.items()}
        halves = {
            name: mauve.between_halves(measure, human, v, units, seed=work.seed)
            for name, v in (vectors | {HUMAN: human}).items()
        }
        work.measures.update({key: whole, f"{key}_of_halves": halves})
        rows.append(Measure(key, f"{title}, {n} texts a side"))
        rows.append(Measure(f"{key}_of_halves", f"{title}, {n // 2} texts a side, other prompts"))
        work.comparisons.extend(
            mauve.comparison(title, (work.names[0], found[work.names[0]]), (rival, found[rival]),
                             lower_is_better=title != "MAUVE")
            for rival in work.names[1:-1]
        )  # fmt: skip
        if is_enough:
            work.headlines.extend(
                f"Against human text {name} has a {title} of {whole[name]}; at {n // 2} texts a side it has "
                f"{halves[name]}, where other human text has {halves[HUMAN]}."
                for name in vectors
            )
    note = (
        f"MiniLM sentence vectors of the first {work.settings.words} words, in {mauve.num_clusters(n)} clusters, mean "
        f"over {mauve.SEEDS} seeds; intervals from {mauve.HALVES} random halves of the prompts. MAUVE is 1 and the "
        "frontier integral 0 for equal sets, nearly. The rows of halves set texts of one half of the prompts against "
        "human texts of the other half; there the column of human text is what a model could reach at best."
    )
    lead = "How far the texts of a model and of people lie apart as two distributions."
    if not is_enough:
        lead += f" {n} texts are too few to rank models by it."
    return Section(title="Closeness to human text", lead=lead, blocks=(work.table("Closeness", rows, note),))


def entropy(work: Work) -> Section:
    """Entropy of next-token distributions along each model's own texts and along human ones."""
    series, units, seed = [], work.units, work.seed
    for w in work.written:
        own_units = likelihood.repeated(units, len(w.own.entropy))
        drift = likelihood.entropy_drift(w.own.entropy, w.human.entropy, units, seed)
        found = (
            likelihood.mean_entropy(w.own.entropy, own_units, seed),
            likelihood.mean_entropy(w.human.entropy, units, seed),
            likelihood.entropy_slope(w.own.entropy, own_units, seed),
            likelihood.entropy_slope(w.human.entropy, units, seed),
            drift,
        )
        for measure, estimate in zip(ENTROPIES, found, strict=True):
            work.measures.setdefault(measure.key, {})[w.name] = estimate
        for name, values, of in (
            (f"{w.name}, own texts", w.own.entropy, own_units),
            (f"{w.name}, human text", w.human.entropy, units),
        ):
            x, y = likelihood.entropy_by_position(values, of, work.settings.max_tokens, BINS, seed)
            series.append(Series(name=name, x=x, y=y, is_reference=name.endswith("human text")))
        if drift.low is None or drift.high is None or drift.low <= 0 <= drift.high:
            line = f"The uncertainty of {w.name} does not measurably drift on its own texts ({drift} nats"
        else:
            way = "rises" if drift.low > 0 else "falls"
            line = f"The uncertainty of {w.name} {way} along its own texts, compared with human text (by {drift} nats"
        work.headlines.append(f"{line} per 100 tokens).")
    curve = Curve(
        title="Entropy of the next-token distribution by position",
        x_label="tokens into the continuation",
        y_label="entropy, nats",
        series=tuple(series),
        note="Of the composed distribution before temperature and truncation.",
    )
    table = work.table("Entropy and its drift", ENTROPIES, "Slopes by least squares over all tokens; intervals over "
                       "prompts.", [w.name for w in work.written])  # fmt: skip
    lead = (
        "Feedback of its own mistakes shows when a model becomes surer, or less sure, along its own texts than along "
        "human ones after the same prompts."
    )
    return Section(title="Entropy drift", lead=lead, blocks=(curve, table))
