"""P(True): what the model says when it is asked whether its own answer is true.

Small models lean to one letter whatever the answer, so both orders of the letters are read and averaged, and what the
model says where no answer stands is taken off.

Source: Kadavath et al. (2022), arXiv:2207.05221; order and prior are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from factorlm.inference.model import Model
from factorlm.inference.uncertainty.evidence import Query, next_log_odds

BRAINSTORMED = 5  # samples shown before the answer
BRACKET, LETTERS = " (", "AB"
SHOWN = (
    ("How many days are there in a week?", "seven", True),
    ("Which planet is nearest to the Sun?", "Saturn", False),
    ("Who wrote the play Hamlet?", "Charles Darwin", False),
    ("What do bees make from nectar?", "honey", True),
)  # ours, as many true ones as false ones
NOTHING = "no answer"


def asked_whether(question: str, answer: str, *, true_first: bool, ideas: Sequence[str] = (), passage: str = "") -> str:
    """The text behind which the model chooses a letter, after examples.

    Args:
        question: alone.
        answer: that is proposed.
        true_first: whether (A) is true and (B) false, or the other way round.
        ideas: other answers, told before; none leaves them out.
        passage: that the question is about.
    """

    def one(asked: str, proposed: str, brainstormed: Sequence[str] = ()) -> str:
        told = "".join(f"\nPossible answer: {idea}" for idea in brainstormed)
        first, second = ("True", "False") if true_first else ("False", "True")
        return (
            f"Question: {asked}{told}\nProposed answer: {proposed}\nIs the proposed answer:\n (A) {first}\n"
            f" (B) {second}\nThe proposed answer is:"
        )

    shown = [f"{one(asked, said)}{BRACKET}{LETTERS[is_true != true_first]})\n\n" for asked, said, is_true in SHOWN]
    return "".join(shown) + (f"Passage: {passage}\n" if passage else "") + one(question, answer, ideas)


def true_logits(
    model: Model, queries: Sequence[Query], answers: Sequence[str], ideas: Sequence[Sequence[str]] | None = None
) -> list[float]:
    """Log odds of true against false for each answer, averaged over both orders, less those of no answer.

    Args:
        model: that answers about itself.
        queries: whose questions are told; a passage in them is told as well.
        answers: one for each query.
        ideas: samples to tell before each answer; None tells none.
    """
    contexts = []
    for i, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        told = list(ideas[i])[:BRAINSTORMED] if ideas else []
        for proposed in (answer or NOTHING, NOTHING):
            for true_first in (True, False):
                text = asked_whether(
                    query.question, proposed, true_first=true_first, ideas=told, passage=_passage(query)
                )
                contexts.append([*model.lm.start_ids, *model.lm.encode_text(text + BRACKET)])
    odds = next_log_odds(model, contexts, *(model.lm.encode_text(letter)[0] for letter in LETTERS))
    logits = []
    for start in range(0, len(odds), 4):  # of an answer: proposed or none, and each order
        says, without = ((odds[k] - odds[k + 1]) / 2 for k in (start, start + 2))
        logits.append(says - without)
    return logits


def _passage(query: Query) -> str:
    """The passage that a query tells; empty if it tells none."""
    _, found, rest = query.before.rpartition("Passage: ")
    return rest.removesuffix("Question: ").rstrip() if found else ""
