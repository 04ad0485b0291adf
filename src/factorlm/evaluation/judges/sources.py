"""Data sets as labelled texts, and which of their texts are used."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable

from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.judges.labelled import Labelled

SHORT = 200  # characters; of longer comments a judge would learn that toxic ones are shorter
PARADETOX_KEPT = 400  # last pairs, which the factor `toxic` did not learn from
PASSAGES = (1, 4)  # sentences to a passage; a judge of style meets both
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def rows_of(part: str) -> Callable[[DataFolder], list[Labelled]]:
    """Reads a set whose rows have `text` and `label`; rows of other labels (-1) are left out."""
    return lambda data: [Labelled(row["text"], row["label"]) for row in data.rows(part) if row["label"] >= 0]


def rewrites(data: DataFolder) -> list[Labelled]:
    """Yelp sentences with the sentences that people made of them for the opposite sentiment, and those of Amazon.

    Amazon's own sentences are left out: their labels are stars of the whole review, and every third one is wrong.
    """
    found = []
    for part in ("yelp_test", "amazon_test"):
        for number, row in enumerate(data.rows(f"review_sentiment_transfer/{part}")):
            group = f"{part} {number}"
            if part == "yelp_test":
                found.append(Labelled(row["text"], row["label"], group))
            found.append(Labelled(row["rewrite"], 1 - row["label"], group))
    return found


def film_sentences(data: DataFolder) -> list[Labelled]:
    """Sentences of film reviews, each with the label of its review."""
    return [
        Labelled(sentence, row["label"], row["id"])
        for row in data.rows("movie_reviews/all")
        for sentence in row["text"].split("\n")
        if 20 <= len(sentence) <= 300
    ]


def surge(half: int) -> Callable[[DataFolder], list[Labelled]]:
    """Half of the social-media comments: the two toxicity judges share none."""

    def read(data: DataFolder) -> list[Labelled]:
        rows = data.rows("surge_toxicity/all")
        return [
            Labelled(r["text"], r["label"]) for r in rows if hashlib.sha256(r["text"].encode()).digest()[-1] % 2 == half
        ]

    return read


def kept_pairs(data: DataFolder) -> list[Labelled]:
    """Toxic sentences and their neutral rewrites, of pairs that no factor was trained on."""
    found = []
    for number, row in enumerate(data.rows("paradetox/train")[-PARADETOX_KEPT:]):
        found += [Labelled(row["toxic"], 1, str(number)), Labelled(row["neutral"][0], 0, str(number))]
    return found


def tweets(part: str) -> Callable[[DataFolder], list[Labelled]]:
    """Tweets; hate speech and offensive language count as toxic, and hate speech, which is rare, is taken whole."""

    def read(data: DataFolder) -> list[Labelled]:
        rows = data.rows(f"hate_speech_offensive/{part}")
        by_label = [[row["text"] for row in rows if row["label"] == label] for label in range(3)]
        hate, offensive, neither = by_label
        offensive.sort(key=lambda text: hashlib.sha256(text.encode()).digest())
        most = max(0, len(neither) - len(hate))
        return [Labelled(text, 1) for text in hate + offensive[:most]] + [Labelled(text, 0) for text in neither]

    return read


def short_comments(part: str) -> Callable[[DataFolder], list[Labelled]]:
    """Comments on Wikipedia's talk pages of at most SHORT characters."""
    return lambda data: [e for e in rows_of(f"jigsaw_toxic/{part}")(data) if len(e.text) <= SHORT]


def perspective(data: DataFolder) -> list[tuple[str, float]]:
    """Continuations by several models with the toxicity that Perspective gave them."""
    rows = data.rows("rtp_prompts/generations")
    return [(row["continuation"], row["toxicity"]) for row in rows if row["toxicity"] is not None]


def news(part: str) -> Callable[[DataFolder], list[Labelled]]:
    """News texts, with entities that have lost their ampersand mended."""

    def read(data: DataFolder) -> list[Labelled]:
        found = rows_of(f"ag_news/{part}")(data)
        return [Labelled(html.unescape(re.sub(r" (#\d+|quot|amp|lt|gt);", r"&\1;", e.text)).replace("\\", " "), e.label)
                for e in found]  # fmt: skip

    return read


def passages(data: DataFolder) -> list[Labelled]:
    """Passages of articles written for beginners (simple) and for advanced readers (complex)."""
    found = []
    for row in data.rows("onestop_english/texts"):
        if row["label"] == 1:  # between the two
            continue
        sentences = [s for s in SENTENCE_END.split(" ".join(row["text"].split())) if len(s) > 20]
        for size in PASSAGES:
            for start in range(0, len(sentences), size):
                text = " ".join(sentences[start : start + size])
                found.append(Labelled(text, int(row["label"] == 0), row["doc"]))
    return found


def simplifications(data: DataFolder) -> list[Labelled]:
    """Sentences of Wikipedia, each with one of its ten simplifications, in turn."""
    found = []
    for number, row in enumerate(data.rows("asset/test")):
        simple = row["simplifications"][number % len(row["simplifications"])]
        found += [Labelled(row["source"], 0), Labelled(simple, 1)]
    return found
