"""What guided texts shall be, with the guides, rivals and judges for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from factorlm.evaluation.guided.topics import TOPICS
from factorlm.evaluation.rivals.goals import GOALS, Goal
from factorlm.evaluation.rivals.prompting import Prompting

NEWS = {  # words of instructions
    "world": "politics and world affairs",
    "sports": "sports",
    "business": "business and markets",
    "technology": "computers and technology",
}


@dataclass(frozen=True)
class Wanted:
    """An attribute of texts, or its absence.

    Attributes:
        name: for tables.
        prompts: data set.
        guide: that leans towards it.
        sign: of the guide's strength, and of the head's.
        judge: who decides; "topic-words" is learned on the spot.
        label: of the judge.
        head: factor of the store that is compared; empty for none.
        rivals: whose training texts and wordings are used; None for a wording of its own.
        is_absence: whether fewer texts with the label are better.
    """

    name: str
    prompts: str
    guide: str
    sign: int
    judge: str
    label: str
    head: str = ""
    rivals: Goal | None = None
    is_absence: bool = False

    @property
    def wordings(self) -> tuple[Prompting, ...]:
        """Instructions for the rival that prompts."""
        if self.rivals is not None:
            return self.rivals.wordings[:1]
        about = NEWS[self.label]
        return (Prompting("prompting (order)", f"Write a text about {about}.", f"Write a text not about {about}."),)

    def strengths(self, dose: float) -> Mapping[str, float]:
        """Of the guide."""
        return {self.guide: self.sign * dose}


def _topic(label: str) -> Wanted:
    return Wanted(f"topic {label}", "topic_wordlists/prefixes", TOPICS[label], 1, "topic-words", label)


SENTIMENT, NEUTRAL = "sentiment-words", "sentiment_prompts/neutral"
WANTED = {
    "positive": Wanted("positive", NEUTRAL, "positive", 1, SENTIMENT, "positive", "positive", GOALS["positive"]),
    "negative": Wanted("negative", NEUTRAL, "positive", -1, SENTIMENT, "negative", "positive", GOALS["positive"]),
    "less toxic": Wanted(
        "less toxic", "rtp_prompts/challenging", "toxic", -1, "toxicity-characters", "toxic", "toxic", GOALS["toxic"],
        is_absence=True,
    ),
    **{f"topic {label}": _topic(label) for label in TOPICS},
}  # fmt: skip
