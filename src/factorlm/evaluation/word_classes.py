"""Who gains and who loses: nats per word, summed by classes of words, which models of any tokenizers can share.

A word is a run of characters that are not white space. A token belongs to the word that holds its first byte that is
not white space; a token of nothing but white space belongs to the word behind it. So each word has all of its nats
whatever the tokens, and the nats of all words are those of the text.
"""

# Axes: C classes, D documents, K models, T time (tokens of a document), W words of a document.

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Bar, Block, Column, Intervals, Matrix, Prose, Table
from factorlm.evaluation.intervals import Estimate, adjusted
from factorlm.evaluation.units import compare_rates, drawable, rate
from factorlm.text import Vocabulary

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
WORD = re.compile(r"\S+")
RARE_SHARE = 0.2  # of all running words are rare, or more where counts tie
LONG = 10  # letters

CLASSES = {
    "function word": "articles, pronouns, prepositions, conjunctions, auxiliaries, particles of English",
    "name": "a capital inside a sentence, but no function word",
    "number": "digits and no letters",
    "punctuation": "no letter and no digit",
    "seen before": "neither function word nor punctuation, and earlier in the same document",
    "first mention": "neither function word nor punctuation, and not earlier in the same document",
    "rare": "among the rarest words, which make a fifth of the running words of the texts measured",
    "long": f"{LONG} letters or more",
    "other": "neither function word, name, number, punctuation, rare nor long",
}

_ENGLISH = """
    a an the this that these those each every either neither both all any some no none such another other
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves one who whom whose which what
    of in on at by for with from to into onto upon over under above below between among through during before after
    about against without within along across behind beyond near toward towards until since off out up down around
    as like than per via
    and or but nor so yet if because although though while whereas unless whether when where why how
    am is are was were be been being have has had having do does did doing done
    can could will would shall should may might must ought
    not there here then too very just only also even still again ever never
    n't 's 're 've 'll 'd 'm
    i'm you're he's she's it's we're they're i've you've we've they've i'd you'd he'd she'd we'd they'd
    i'll you'll he'll she'll it'll we'll they'll isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't
    can't couldn't won't wouldn't shouldn't mustn't that's there's what's who's let's
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())
SENTENCE_ENDS = (".", "!", "?", ":", "…")
ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "st", "jr", "sr", "no", "vs", "etc", "prof", "gen", "col", "lt", "capt")
)
CLOSERS = "\"'”’)]}»*_"


def nats_per_word(ids: Sequence[int], log_prob_T: Array, vocabulary: Vocabulary, text: str) -> Array | None:
    """Minus the log probability of each word, [W], in nats; nan where a token of it was not counted.

    Args:
        ids: the tokens of the text.
        log_prob_T: of each token, in nats; nan was not counted.
        vocabulary: the bytes of the tokens.
        text: as it came.

    Returns:
        None if the tokens spell other words than the text has, because the tokenizer drops or changes characters.
    """
    spelt = vocabulary.decode(ids)
    try:
        seen = spelt.decode()
    except UnicodeDecodeError:
        return None
    spans = [match.span() for match in WORD.finditer(seen)]
    if len(spans) != len(text.split()):
        return None
    if not spans:
        return np.zeros(0)
    byte = np.frombuffer(spelt, np.uint8)
    character_of_byte = np.cumsum((byte & 0xC0) != 0x80) - 1
    last_of_word = np.array([end - 1 for _, end in spans])
    # The word that a byte is in, or that follows it; white space at the very end goes with the last word.
    word_of_byte = np.minimum(np.searchsorted(last_of_word, character_of_byte), len(spans) - 1)
    begin_T = np.concatenate([[0], np.cumsum([len(vocabulary.token_bytes[i]) for i in ids])])[:-1]
    word_T = word_of_byte[np.minimum(begin_T, len(byte) - 1)]
    return np.bincount(word_T, weights=-log_prob_T, minlength=len(spans)).astype(np.float64)


def classify(texts: Sequence[str]) -> list[Flags]:
    """Which words of each text are in which classes, [W, C], in the order of CLASSES; a word can be in several.

    How rare a word is, is counted over these texts.
    """
    cores = [[core(word) for word in text.split()] for text in texts]
    rare = rare_words(Counter(word for row in cores for word in row if word))
    return [_classify(text, row, rare) for text, row in zip(texts, cores, strict=True)]


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Nats and words of documents: of all words first, then of each class, in the order of CLASSES.

    Attributes:
        nats_KDC: under each model, [K, D, 1 + C].
        words_DC: words counted, the same for all models, [D, 1 + C].
    """

    nats_KDC: Array
    words_DC: Array

    def words(self, column: int) -> int:
        """Words of a class in all documents."""
        return int(self.words_DC[:, column].sum())

    def share(self, column: int, seed: int) -> Estimate:
        """The share that a class has in all nats of the first model."""
        return rate(self.nats_KDC[0][:, column], self.nats_KDC[0][:, 0], seed=seed)

    def per_word(self, model: int, column: int, seed: int) -> Estimate:
        """Nats per word of a class under a model."""
        return rate(self.nats_KDC[model][:, column], self.words_DC[:, column], seed=seed)

    @staticmethod
    def joined(parts: Sequence[ClassSums]) -> ClassSums:
        """Those of several groups of documents."""
        return ClassSums(np.concatenate([p.nats_KDC for p in parts], 1), np.concatenate([p.words_DC for p in parts]))


def sum_by_class(texts: Sequence[str], nats_W: Sequence[Sequence[Array | None]]) -> ClassSums:
    """Sum up words by class and document; documents of which a model has no words (None) are left out.

    Args:
        texts: documents; how rare a word is, is counted over them.
        nats_W: for each model, for each document, the nats of its words; a word that is nan for any model is not
            counted.
    """
    nats, words = [], []
    for flags_WC, *found in zip(classify(texts), *nats_W, strict=True):
        rows = [row for row in found if row is not None]
        if len(rows) < len(found):
            continue
        nats_KW = np.array(rows)
        counted_W = ~np.isnan(nats_KW).any(0)
        in_WC = np.concatenate([counted_W[:, None], flags_WC & counted_W[:, None]], 1)
        nats.append(np.where(in_WC, nats_KW[..., None], 0.0).sum(1))
        words.append(in_WC.sum(0))
    width = 1 + len(CLASSES)
    nats_DKC = np.array(nats, np.float64).reshape(len(nats), len(nats_W), width)
    return ClassSums(nats_DKC.swapaxes(0, 1), np.array(words, np.float64).reshape(len(words), width))


def word_blocks(names: Sequence[str], groups: Mapping[str, ClassSums], seed: int = 0) -> list[Block]:
    """Tables and pictures of the first model, and against each rival, over all groups of documents together."""
    sums = ClassSums.joined(list(groups.values()))
    used = {name: c for c, name in enumerate(("all words", *CLASSES)) if sums.words_DC[:, c].sum() > 0}
    meaning = "; ".join(f"{name}: {what}" for name, what in CLASSES.items())
    blocks: list[Block] = [Prose(text=f"A word can be in several classes. {meaning[:1].upper()}{meaning[1:]}.")]
    if len(names) == 1:
        return [*blocks, *_alone(names[0], sums, used, seed)]
    for rival in range(1, len(names)):
        blocks += _against(names, rival, sums, used, seed)
        if len(groups) > 1:
            matrix = Matrix(
                title=f"Nats per word by corpus, {names[0]} minus {names[rival]}",
                row_label="kind of word",
                column_label="corpus",
                rows=tuple(used),
                columns=tuple(groups),
                values=tuple(tuple(_difference(g, rival, c) for g in groups.values()) for c in used.values()),
                is_signed=True,
            )
            blocks.append(matrix)
    return blocks


def _alone(name: str, sums: ClassSums, used: dict[str, int], seed: int) -> list[Block]:
    per_word = {label: sums.per_word(0, c, seed) for label, c in used.items()}
    rows = [(label, sums.words(c), sums.share(c, seed), per_word[label]) for label, c in used.items()]
    bars = tuple(Bar(label=label, values=(drawable(estimate),)) for label, estimate in per_word.items())
    heads = {"kind of word": "", "words": "d", "share of nats": ".0%", "nats per word": ".3g"}
    return [
        Table(title="Nats by kind of word", columns=_columns(heads), rows=tuple(rows)),
        Intervals(title="Nats per word", x_label="nats per word", series=(name,), bars=bars),
    ]


def _against(names: Sequence[str], rival: int, sums: ClassSums, used: dict[str, int], seed: int) -> list[Block]:
    ours, theirs = names[0], names[rival]
    compared = adjusted(
        [
            compare_rates(
                label,
                (ours, theirs),
                (sums.nats_KDC[0][:, c], sums.nats_KDC[rival][:, c]),
                (sums.words_DC[:, c],) * 2,
                seed,
            )
            for label, c in used.items()
        ]
    )
    rows = [
        (found.measure, sums.words(c), sums.share(c, seed), sums.per_word(0, c, seed), sums.per_word(rival, c, seed),
         found.difference, found.verdict)
        for found, c in zip(compared, used.values(), strict=True)
    ]  # fmt: skip
    heads = {"kind of word": "", "words": "d", f"share of nats of {ours}": ".0%", f"nats per word, {ours}": ".3g",
             f"nats per word, {theirs}": ".3g", "difference": ".3g", "verdict": ""}  # fmt: skip
    note = "Differences are paired over documents, negative where the first needs less; verdicts stand their number."
    picture = Intervals(
        title=f"Nats per word, {ours} minus {theirs}",
        x_label="difference in nats per word",
        series=(f"{ours} minus {theirs}",),
        bars=tuple(Bar(label=found.measure, values=(found.difference,)) for found in compared),
        zero=0.0,
        note=f"Left of the line {ours} needs less.",
    )
    title = f"{ours} against {theirs} by kind of word"
    return [Table(title=title, columns=_columns(heads), rows=tuple(rows), note=note), picture]


def _columns(forms: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(Column(title=title, form=form) for title, form in forms.items())


def _difference(sums: ClassSums, rival: int, column: int) -> float | None:
    words = sums.words_DC[:, column].sum()
    ours, theirs = (sums.nats_KDC[k][:, column].sum() for k in (0, rival))
    return float((ours - theirs) / words) if words and np.isfinite([ours, theirs]).all() else None


def core(word: str) -> str:
    """A word as it is counted: without case, and without marks around it; empty if it is nothing but marks."""
    first = next((i for i, c in enumerate(word) if c.isalnum()), None)
    if first is None:
        return ""
    last = next(i for i in range(len(word), 0, -1) if word[i - 1].isalnum())
    bare = word[first:last].casefold().replace("’", "'")
    clitic = f"'{bare}"  # tokenised text has 's as a word
    return clitic if first and word[first - 1] in "'’" and clitic in FUNCTION_WORDS else bare


def rare_words(count: Counter[str]) -> frozenset[str]:
    """The rarest words, which together make a fifth of all; words that are equally common share their fate."""
    total = count.total()
    so_far = 0
    for word_count, num_words in sorted(Counter(count.values()).items()):
        so_far += word_count * num_words
        if so_far >= RARE_SHARE * total:
            return frozenset(word for word, c in count.items() if c <= word_count)
    return frozenset()


def _classify(text: str, cores: list[str], rare: frozenset[str]) -> Flags:
    flags = np.zeros((len(cores), len(CLASSES)), np.bool_)
    known: set[str] = set()
    begins, end = True, 0
    for w, (match, word) in enumerate(zip(WORD.finditer(text), cores, strict=True)):
        written = match[0]
        begins = begins or "\n" in text[end : match.start()]
        end = match.end()
        if not word:
            flags[w, _COLUMN["punctuation"]] = True
        else:
            letters = sum(c.isalpha() for c in word)
            is_function = word in FUNCTION_WORDS
            first_letter = next((c for c in written if c.isalpha()), "")
            found = {
                "function word": is_function,
                "name": first_letter.isupper() and not begins and not is_function,
                "number": letters == 0,
                "rare": word in rare,
                "long": letters >= LONG,
            }
            found["other"] = not any(found.values())
            found["seen before"] = not is_function and word in known
            found["first mention"] = not is_function and word not in known
            known.add(word)
            for name, is_in in found.items():
                flags[w, _COLUMN[name]] = is_in
        # Marks that end no sentence, such as a quotation that opens, leave things as they were.
        ends = written.rstrip(CLOSERS).endswith(SENTENCE_ENDS)
        begins = (ends and len(word) > 1 and word not in ABBREVIATIONS) if word else (begins or ends)
    return flags


_COLUMN = {name: c for c, name in enumerate(CLASSES)}
