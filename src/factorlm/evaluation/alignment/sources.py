"""Preferences from data: two wordings of one thing, of which the first is preferred, and who judges independently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.feedback import Pair

SHARED_WORDS = 2  # that both wordings begin with: they are the prompt


@dataclass(frozen=True)
class Source:
    """Where pairs come from.

    Attributes:
        name: of the preference.
        parts: of the data.
        licence: of the texts.
        judge: of the shelf, which never saw the model that is aligned.
        label: of the judge, for what is preferred.
    """

    name: str
    parts: tuple[str, ...]
    licence: str
    judge: str
    label: str


SOURCES = {
    source.name: source
    for source in (
        Source("civil", ("paradetox/train",), "CC0-1.0", "toxicity", "civil"),
        Source(
            "positive",
            ("review_sentiment_transfer/yelp_test", "review_sentiment_transfer/amazon_test"),
            "CC-BY-SA-4.0",
            "sentiment",
            "positive",
        ),
    )
}


def source_named(name: str) -> Source:
    """The source of this name.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in SOURCES:
        raise UnknownNameError.of("preference", name, SOURCES)
    return SOURCES[name]


def pairs_of(bench: Workbench, source: Source) -> list[Pair]:
    """All pairs, in an order drawn once for each seed; what both wordings begin with is the prompt.

    Raises:
        UnknownNameError: if the data is not there.
    """
    found = []
    for part in source.parts:
        for row in bench.data.rows(part):
            found += [_split(better, worse) for better, worse in _wordings(row)]
    found = list(dict.fromkeys(pair for pair in found if pair is not None))
    order = np.random.default_rng(bench.seed).permutation(len(found))
    pairs = [found[i] for i in order]
    bench.used[source.name] = fingerprint([f"{p.prompt}\t{p.chosen}\t{p.rejected}" for p in pairs])
    return pairs


def _wordings(row: dict[str, object]) -> Iterator[tuple[str, str]]:
    """The preferred wording and the other: ParaDetox's rewrite and original, or the two polarities of a review."""
    if "toxic" in row:
        neutral = row["neutral"]
        assert isinstance(neutral, list)
        yield from ((str(text), str(row["toxic"])) for text in neutral[:1])
    elif row.get("rewrite"):
        text, rewrite = str(row["text"]), str(row["rewrite"])
        yield (text, rewrite) if row["label"] == 1 else (rewrite, text)


def _split(better: str, worse: str) -> Pair | None:
    """A pair with the shared beginning as its prompt, or none; None where nothing is left to prefer."""
    first, second = better.lower().split(), worse.lower().split()
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    shared = min(shared, len(first) - 1, len(second) - 1)
    if shared < SHARED_WORDS:
        shared = 0
    chosen, rejected = (" ".join(text.split()[shared:]) for text in (better, worse))
    if not chosen or not rejected or chosen.lower() == rejected.lower():
        return None
    return Pair(" ".join(better.split()[:shared]), chosen, rejected)


@dataclass(frozen=True)
class Divided:
    """Pairs to train rewards on, pairs to tune on (some of them), and prompts that neither saw.

    Attributes:
        rewards: pairs for the reward.
        tuning: pairs for DPO; all with a prompt.
        prompts: beginnings of further pairs.
        unseen: those pairs.
    """

    rewards: tuple[Pair, ...]
    tuning: tuple[Pair, ...]
    prompts: tuple[str, ...]
    unseen: tuple[Pair, ...]


def divided(pairs: list[Pair], *, num_rewards: int, num_tuning: int, num_prompts: int) -> Divided:
    """Divide pairs so that no beginning is in two parts.

    Raises:
        InputError: if there are too few different beginnings.
    """
    first_of: dict[str, Pair] = {}
    for pair in pairs:
        if pair.prompt:
            first_of.setdefault(pair.prompt, pair)
    unseen = tuple(first_of.values())[:num_prompts]
    taken = {pair.prompt for pair in unseen}
    rest = [pair for pair in pairs if pair.prompt not in taken]
    with_prompt = [pair for pair in rest if pair.prompt]
    if len(unseen) < num_prompts or len(with_prompt) < num_tuning:
        raise InputError(
            f"{num_prompts} different beginnings and {num_tuning} pairs with one are needed, got {len(unseen)} and "
            f"{len(with_prompt)}; ask for fewer"
        )
    without = [pair for pair in rest if not pair.prompt]
    rewards = tuple([*with_prompt, *without][:num_rewards])
    return Divided(rewards, tuple(with_prompt[:num_tuning]), tuple(p.prompt for p in unseen), unseen)
