"""Perplexity: how many nats texts cost, by corpus or language, by position and by kind of word."""

# Axes: D documents, T time (tokens of a document).

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.corpora import Document, fingerprint
from factorlm.evaluation.document import (
    Bar,
    Block,
    Cell,
    Column,
    Comparisons,
    Curve,
    Intervals,
    Prose,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import FEWEST_UNITS, Comparison, Estimate, adjusted
from factorlm.evaluation.perplexity import default_window, holds_mixture, token_log_probs
from factorlm.evaluation.texts import Corpus, Groups, Limit, load_corpora, load_own
from factorlm.evaluation.units import (
    LN2,
    Counts,
    by_position,
    compare_rates,
    drawable,
    macro_mean,
    parity,
    rate,
)
from factorlm.evaluation.word_classes import nats_per_word, sum_by_class, word_blocks
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config
from factorlm.text import Vocabulary

Array = NDArray[np.float64]
BATCH_CHARACTERS = 16_000  # read and kept at once
BATCH_DOCUMENTS = 64
WORST = 5
MOST_HEADLINES = 8  # groups with a sentence each; of more, only their mean and the worst


class Settings(Config):
    """Settings of the suite.

    Attributes:
        corpora: the texts, unless `texts` are given.
        texts: files of your own, each "group=path", where a group is a language or domain: plain text with a document
            on each line, or .jsonl with `text` and, if wanted, `group` and `id`, equal for translations of one text.
        max_documents: of each group of `texts`; None takes all.
        max_characters: of each document of `texts`; None cuts nothing.
        window: most tokens read at once; None takes 512, or what the models can read.
        stride: tokens by which windows move on; None takes half a window.
        count_first: True puts the start token before each document and counts all its tokens; False reads documents
            as they are and leaves out their first token.
    """

    corpora: tuple[Corpus, ...] = (
        Corpus(part="wikitext/wikitext2_test", documents="headings", max_documents=10),
        Corpus(part="tinystories/valid", max_documents=10),
        Corpus(part="gsm8k/test", fields=("question", "answer")),
        Corpus(part="humaneval/test", fields=("prompt", "canonical_solution"), joint=""),
        Corpus(part="cuad/contracts", max_documents=8, max_characters=2800),
    )
    texts: tuple[str, ...] = ()
    max_documents: Limit = 100
    max_characters: Limit = 2000
    window: Limit = None
    stride: Limit = None
    count_first: bool = True

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls()
        most = {"gsm8k/test": 300, "cuad/contracts": 20}
        longest = {"cuad/contracts": 40_000}
        corpora = tuple(
            c.model_copy(update={"max_documents": most.get(c.part), "max_characters": longest.get(c.part)})
            for c in cls().corpora
        )
        return cls(corpora=corpora, max_documents=None, max_characters=None)


@dataclass(frozen=True, eq=False)
class Measured:
    """Documents of one group under one model.

    Attributes:
        name: of the model.
        vocabulary: of the model.
        ids: the documents' tokens.
        log_prob_T: of each token of each document, in nats; nan was not counted.
        counts: what they sum to.
    """

    name: str
    vocabulary: Vocabulary
    ids: list[list[int]]
    log_prob_T: list[Array]
    counts: Counts


@dataclass(frozen=True)
class _Run:
    """What was read, and what its parts of the report need: by group, one Measured for each model."""

    bench: Workbench
    groups: Groups
    found: dict[str, list[Measured]]
    window: int

    @property
    def seed(self) -> int:
        return self.bench.seed

    @property
    def vocabularies(self) -> list[Vocabulary]:
        return [m.model.lm.vocabulary for m in self.bench.models]

    @property
    def is_one_vocabulary(self) -> bool:
        return all(v == self.vocabularies[0] for v in self.vocabularies)

    def macro(self, index: int, unit: str) -> Estimate:
        """Mean over groups of bits per unit under one model."""
        counts = [models[index].counts for models in self.found.values()]
        return macro_mean([(c.nats_D, getattr(c, unit)) for c in counts], self.seed)

    def worst(self, index: int) -> list[tuple[float, str]]:
        """The groups with the most bits per character under one model."""
        bits = [(models[index].counts.bits_per_character(self.seed).value, g) for g, models in self.found.items()]
        return sorted(((value, g) for value, g in bits if value is not None), reverse=True)[:WORST]


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the models on all groups of texts, and compare the first with the others document by document."""
    groups, cautions = load(bench, settings)
    window = settings.window or default_window([m.model.factor for m in bench.models])
    stride = settings.stride or max(1, window // 2)
    every = range(len(bench.models))
    found = {
        group: [_measure(bench, i, group, documents, window, stride, settings.count_first) for i in every]
        for group, documents in groups.items()
    }
    this = _Run(bench, groups, found, window)
    comparisons = adjusted([c for group in groups for c in _compared(this, group)])
    by_word, num_unaligned = _words(this)
    cautions += _cautions(this, num_unaligned)
    start = "each after a start token" if settings.count_first else "as they are, their first tokens not counted"
    protocol = (
        f"Documents are read one by one, {start}, in windows of {window} tokens that move on by {stride}. Figures are "
        "ratios of sums over documents, intervals are over documents. Words are runs without white space, bytes are "
        "UTF-8, characters are code points."
    )
    sections = (
        Section(title="Corpora", lead=protocol, blocks=_units(this, comparisons)),
        Section(title="Tokens and languages", blocks=_languages(this)),
        Section(title="By position", lead="Whether what stands far back helps.", blocks=_positions(this)),
        Section(title="By kind of word", lead="Nats summed by word, whatever the tokens.", blocks=tuple(by_word)),
    )
    measures = _measures(this)
    headlines = tuple(_headlines(this, measures, comparisons))
    return Findings("Perplexity", sections, measures, tuple(comparisons), headlines, tuple(cautions))


def load(bench: Workbench, settings: Settings) -> tuple[Groups, list[str]]:
    """The documents by group, noted as used, and what is to be said about them.

    Raises:
        InputError: if there is none, or one cannot be read.
    """
    groups, cautions = (
        load_own(settings.texts, settings.max_documents, settings.max_characters)
        if settings.texts
        else (load_corpora(settings.corpora, bench.data), [])
    )
    groups = {name: documents for name, documents in groups.items() if documents}
    if not groups:
        raise InputError("a text to measure is needed, got none; give corpora or texts")
    parts = {} if settings.texts else {c.group: c.part for c in settings.corpora}
    for name, documents in groups.items():
        bench.used[parts.get(name, name)] = fingerprint([d.text for d in documents])
    return groups, cautions


def _measure(
    bench: Workbench, index: int, group: str, documents: list[Document], window: int, stride: int, count_first: bool
) -> Measured:
    composed, texts = bench.models[index], [d.text for d in documents]
    size = max(1, min(BATCH_DOCUMENTS, BATCH_CHARACTERS * len(texts) // sum(map(len, texts))))
    options = {"window": window, "stride": stride, "count_first": count_first}

    def work(batch: list[str]) -> list[list[float]]:
        found = token_log_probs(composed.model, batch, window=window, stride=stride, count_first=count_first)
        return [log_prob_T.tolist() for log_prob_T in found]

    key = {"what": "perplexity", "model": composed.fingerprint, **options}
    rows = bench.in_batches(f"reading {group} with {bench.name(index)}", key, texts, size, work)
    lm = composed.model.lm
    ids, log_prob_T = [lm.encode_text(text) for text in texts], [np.array(row, np.float64) for row in rows]
    return Measured(bench.name(index), lm.vocabulary, ids, log_prob_T, Counts.of(texts, ids, log_prob_T, lm.vocabulary))


def _compared(this: _Run, group: str) -> list[Comparison]:
    """Bits per byte of the first model against each rival."""
    ours, *rivals = this.found[group]
    return [
        compare_rates(
            f"bits per byte on {group}",
            (ours.name, rival.name),
            (ours.counts.nats_D / LN2, rival.counts.nats_D / LN2),
            (ours.counts.bytes_D, rival.counts.bytes_D),
            this.seed,
        )
        for rival in rivals
    ]


def _columns(forms: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(Column(title=title, form=form) for title, form in forms.items())


def _units(this: _Run, comparisons: list[Comparison]) -> tuple[Block, ...]:
    seed = this.seed
    forms = {"corpus and model": "", "documents": "d", "tokens": "d", "bits per byte": ".3f"}
    forms |= {"bits per character": ".3f", "perplexity per word": ".3g", "perplexity per token": ".3g"}
    rows: list[tuple[Cell, ...]] = []
    bars = []
    for group, models in this.found.items():
        for m in models:
            c = m.counts
            numbers = (c.bits_per_byte(seed), c.bits_per_character(seed), c.word_perplexity(seed), c.perplexity(seed))
            rows.append((f"{group} · {m.name}", len(m.ids), int(c.tokens_D.sum()), *numbers))
        bars.append(Bar(label=group, values=tuple(drawable(m.counts.bits_per_byte(seed)) for m in models)))
    note = "Lower is better in every column."
    if not this.is_one_vocabulary:
        note += " The tokenizers differ, so perplexity per token says nothing between models."
    blocks: tuple[Block, ...] = (
        Table(title="Perplexity in all units", columns=_columns(forms), rows=tuple(rows), note=note),
        Intervals(
            title="Bits per byte",
            x_label="bits per byte",
            series=tuple(this.bench.names),
            bars=tuple(bars),
            note="95 % intervals over documents; lower is better.",
        ),
    )
    if not comparisons:
        return blocks
    note = "Paired over documents, negative is better; p-values are adjusted for the number of comparisons (Holm)."
    return *blocks, Comparisons(title="Bits per byte against rivals", rows=tuple(comparisons), note=note)


def _languages(this: _Run) -> tuple[Block, ...]:
    distinct = [i for i, v in enumerate(this.vocabularies) if v not in this.vocabularies[:i]]
    rows: list[tuple[Cell, ...]] = []
    for group, models in this.found.items():
        for m in (models[i] for i in distinct):
            c = m.counts
            sums = (int(c.tokens_D.sum()), int(c.words_D.sum()), int(c.bytes_D.sum()))
            label = group if len(distinct) == 1 else f"{group} · {m.name}"
            rows.append((label, *sums, c.fertility(this.seed), c.bytes_per_token(this.seed)))
    forms = {"group": "", "tokens": "d", "words": "d", "bytes": "d", "tokens per word": ".2f", "bytes per token": ".2f"}
    note = "A row for each tokenizer. Many tokens a word, few bytes a token: it was not made for such texts."
    blocks: list[Block] = [Table(title="What tokens hold", columns=_columns(forms), rows=tuple(rows), note=note)]
    if len(this.groups) > 1:
        rows = []
        for i, name in enumerate(this.bench.names):
            worst = ", ".join(f"{group} {value:.3g}" for value, group in this.worst(i))
            rows.append((name, this.macro(i, "bytes_D"), this.macro(i, "characters_D"), worst))
        forms = {"model": "", "bits per byte": ".3f", "bits per character": ".3f", "worst, bits per character": ""}
        title = "Mean over groups, each with the same weight"
        blocks.append(Table(title=title, columns=_columns(forms), rows=tuple(rows)))
    parallel = _parallel(this)
    return (*blocks, parallel) if parallel else tuple(blocks)


def _pairs(this: _Run, group: str, index: int) -> dict[str, tuple[float, float]]:
    """Nats and tokens of the documents that have an id."""
    counts = this.found[group][index].counts
    numbers = zip(this.groups[group], counts.nats_D.tolist(), counts.tokens_D.tolist(), strict=True)
    return {document.id: (nats, tokens) for document, nats, tokens in numbers if document.id}


def _parallel(this: _Run) -> Table | None:
    """Groups against the first over the documents whose ids they share."""
    first, *others = this.groups
    rows: list[tuple[Cell, ...]] = []
    gaps = []
    for i, name in enumerate(this.bench.names):
        pairs = {group: _pairs(this, group, i) for group in this.groups}
        everywhere = [key for key in pairs[first] if all(key in pairs[group] for group in others)]
        if everywhere and others:
            bits = [sum(found[key][0] for key in everywhere) / LN2 / len(everywhere) for found in pairs.values()]
            gaps += [f"{max(bits) - min(bits):.3g} for {name}"] if max(bits) < np.inf else []
        for group in others:
            if both := parity(pairs[first], pairs[group], this.seed):
                nats_D = np.array([pairs[group][key][0] for key in pairs[first] if key in pairs[group]])
                bits_each = rate(nats_D / LN2, np.ones_like(nats_D), seed=this.seed)
                rows.append((f"{group} · {name}", len(nats_D), bits_each, both.tokens, both.information))
    if not rows:
        return None
    forms = {"group and model": "", "documents": "d", "bits per document": ".4g"}
    forms |= {f"tokens / those of {first}": ".2f", "information parity": ".2f"}
    note = f"Information parity is nats of {first} / nats of the group: below one, the model knows the group less well."
    if gaps:
        note += f" Bits per document, largest group minus smallest, over documents that all have: {'; '.join(gaps)}."
    return Table(title=f"The same documents as in {first}", columns=_columns(forms), rows=tuple(rows), note=note)


def _positions(this: _Run) -> tuple[Block, ...]:
    unit = "token" if this.is_one_vocabulary else "byte"
    blocks: list[Block] = [
        Prose(
            text="A curve that goes on falling shows that the model uses context that far back. Behind the first "
            f"{this.window} tokens there is no more context than the window."
        )
    ]
    for group, models in this.found.items():
        series, num_documents = [], 0
        for m in models:
            bytes_V = np.array([len(token) for token in m.vocabulary.token_bytes])
            sizes = None if this.is_one_vocabulary else [bytes_V[row] for row in m.ids]
            stretches, num_documents = by_position(m.log_prob_T, sizes, this.seed)
            stretches = [s for s in stretches if drawable(s.nats).value is not None]
            x = tuple(float(np.log2(s.first)) for s in stretches)
            series.append(Series(name=m.name, x=x, y=tuple(s.nats for s in stretches)))
        if all(len(s.x) > 1 for s in series):
            curve = Curve(
                title=f"Nats per {unit} by position on {group}",
                x_label=f"position of the {unit} as a power of two (9: from 512 to 1023)",
                y_label=f"nats per {unit}",
                series=tuple(series),
                note=f"Over the same {num_documents} documents at every position.",
            )
            blocks.append(curve)
    return tuple(blocks)


def _words(this: _Run) -> tuple[list[Block], int]:
    """Tables and pictures by kind of word, and the number of documents that could not be used."""
    sums = {}
    for group, documents in this.groups.items():
        nats = [
            [
                nats_per_word(ids, log_prob_T, m.vocabulary, d.text)
                for ids, log_prob_T, d in zip(m.ids, m.log_prob_T, documents, strict=True)
            ]
            for m in this.found[group]
        ]
        sums[group] = sum_by_class([d.text for d in documents], nats)
    num_left = sum(len(documents) - len(sums[group].words_DC) for group, documents in this.groups.items())
    return word_blocks(this.bench.names, sums, this.seed), num_left


def _measures(this: _Run) -> dict[str, dict[str, Estimate]]:
    seed = this.seed
    measures: dict[str, dict[str, Estimate]] = {}
    for group, models in this.found.items():
        of = {m.name: m.counts for m in models}
        measures[f"bits_per_byte/{group}"] = {name: c.bits_per_byte(seed) for name, c in of.items()}
        measures[f"bits_per_character/{group}"] = {name: c.bits_per_character(seed) for name, c in of.items()}
        measures[f"word_perplexity/{group}"] = {name: c.word_perplexity(seed) for name, c in of.items()}
        measures[f"token_perplexity/{group}"] = {name: c.perplexity(seed) for name, c in of.items()}
        measures[f"tokens_per_word/{group}"] = {name: c.fertility(seed) for name, c in of.items()}
        measures[f"bytes_per_token/{group}"] = {name: c.bytes_per_token(seed) for name, c in of.items()}
    for i, name in enumerate(this.bench.names):
        if len(this.groups) > 1:
            measures.setdefault("bits_per_byte/mean of groups", {})[name] = this.macro(i, "bytes_D")
            measures.setdefault("bits_per_character/mean of groups", {})[name] = this.macro(i, "characters_D")
        first, *others = this.groups
        for group in others:
            if both := parity(_pairs(this, first, i), _pairs(this, group, i), seed):
                measures.setdefault(f"token_parity/{group}", {})[name] = both.tokens
                measures.setdefault(f"information_parity/{group}", {})[name] = both.information
    return measures


def _cautions(this: _Run, num_unaligned: int) -> list[str]:
    cautions = []
    if not this.is_one_vocabulary:
        cautions.append(
            "The tokenizers differ: perplexity per token is not comparable between these models, and a window holds "
            "another length of text; compare bits per byte."
        )
    for i, (name, composed) in enumerate(zip(this.bench.names, this.bench.models, strict=True)):
        vocabulary = composed.model.lm.vocabulary
        num_changed = sum(
            vocabulary.decode(ids) not in (d.text.encode(), b" " + d.text.encode())
            for group, documents in this.groups.items()
            for ids, d in zip(this.found[group][i].ids, documents, strict=True)
        )
        if num_changed and vocabulary not in this.vocabularies[:i]:
            cautions.append(
                f"The tokenizer of {name} changes characters of {num_changed} documents; what it drops costs nothing, "
                "so figures come out too low."
            )
        num_impossible = sum(models[i].counts.num_impossible for models in this.found.values())
        if num_impossible:
            cautions.append(f"{name} gives {num_impossible} documents probability zero; their perplexity is infinite.")
        if holds_mixture(composed.model.factor):
            cautions.append(f"The mixture in {name} learns anew in every window which of its parts wrote the text.")
    few = [group for group, models in this.found.items() if len(models[0].ids) < FEWEST_UNITS]
    if few and len(this.bench.models) > 1:
        cautions.append(f"With fewer than {FEWEST_UNITS} documents no ranking is made on {', '.join(few)}.")
    if num_unaligned:
        cautions.append(
            f"{num_unaligned} documents are not in the tables by kind of word, because a tokenizer changes their words."
        )
    cautions.append(
        "Texts that a model was trained on look easier than they are, and low perplexity is not quality of what it "
        "writes."
    )
    return cautions


def _headlines(this: _Run, measures: dict[str, dict[str, Estimate]], comparisons: list[Comparison]) -> list[str]:
    name, shown, lines = this.bench.name(0), list(this.groups), []
    if len(shown) > MOST_HEADLINES:
        mean = measures["bits_per_byte/mean of groups"][name]
        lines.append(f"{name} needs {_said(mean)} bits a byte in the mean over {len(shown)} groups.")
        shown = [group for _, group in this.worst(0)]
    for group in shown:
        against = [_verdict(c) for c in comparisons if c.measure == f"bits per byte on {group}"]
        needs = f"{name} needs {_said(measures[f'bits_per_byte/{group}'][name])} bits a byte on {group}"
        lines.append("; ".join([needs, *against]) + ".")
    return lines


def _said(estimate: Estimate) -> str:
    if estimate.value is None:
        return "no known number of"
    interval = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def _verdict(c: Comparison) -> str:
    difference = c.difference
    if c.verdict == "cannot rank" or difference.value is None or difference.low is None or difference.high is None:
        return f"it cannot be ranked against {c.rival} ({c.reason})"
    if c.verdict == "no difference shown":
        return f"no difference from {c.rival} is shown"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    more = "fewer" if difference.value < 0 else "more"
    return f"{abs(difference.value):.3f} {more} than {c.rival} ({low:.3f} to {high:.3f})"
