"""Changes of a whole text: chatter around it, courtesy taken out of it, sentences that have nothing to do with it."""

from __future__ import annotations

import re

import numpy as np

from factorlm.text.perturbations.edits import Edit, Marked

OPENERS = (
    "hello there i hope you can help me with something today",
    "so i have been thinking about this for a while and",
    "okay this may sound like an odd request but",
    "good day to you my friend told me to ask you",
    "well let me see how to put this in words",
    "i am not sure whether this is the right place but",
    "listen i only have a moment so to make it short",
    "hi it is me again and there is one more thing",
)
CLOSERS = (
    "that would make my day a lot easier thank you very much",
    "if it is not too much trouble for you of course",
    "and take all the time that you need for it",
    "i really do appreciate all of your help with this",
    "let me know if anything about that is not clear",
    "i have wanted to do that for a long time now",
    "and that will be all for the moment i think",
    "my sister said that you are really good at such things",
)
COURTESY = (
    r"\b(?:can|could|would|will) you (?:please |kindly )?", r"\bplease\b ?", r"\bkindly\b ?",
    r"\bi(?: would|'d)? (?:like|want|need|wish|love) (?:you )?to ", r"\bi(?: am|'m) (?:looking|searching) (?:for )?",
    r"\b(?:show|give|tell|get|find) me ", r"\bi(?: would|'d) like ", r"\bi (?:need|want) ",
    r"\b(?:a|an|the|some|any)\b ",
    r"\bthere (?:is|are) ", r"\bwhat (?:is|are) ", r"\bdo you have ", r"\bthat\b ",
)  # fmt: skip
SURPLUS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in COURTESY)
ASIDES = (
    "the cat slept on the warm stove all afternoon",
    "my neighbour has painted the old fence green",
    "it rained a little when we came out of the station",
    "somebody left a bicycle in front of the library",
    "the bread was still warm when we cut it",
    "he keeps all his letters in a wooden box",
    "the river is higher than it was last spring",
    "we counted the stairs twice and got two numbers",
    "she has not finished her book about beetles yet",
    "the lamp in the kitchen has been broken for days",
)


def verbose(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """About ten words of chatter before the text, and as many behind it, each with probability `rate`."""
    edits = []
    if generator.random() < rate:
        edits.append(Edit(0, 0, f"{OPENERS[int(generator.integers(len(OPENERS)))]} "))
    if generator.random() < rate:
        end = len(marked.text)
        edits.append(Edit(end, end, f" {CLOSERS[int(generator.integers(len(CLOSERS)))]}"))
    return edits


def append(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """A sentence about something else, before the text or behind it, with probability `rate`."""
    if generator.random() >= rate:
        return []
    aside, end = ASIDES[int(generator.integers(len(ASIDES)))], len(marked.text)
    return [Edit(0, 0, f"{aside} . ")] if generator.random() < 0.5 else [Edit(end, end, f" . {aside}")]


def simplify(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """Courtesy and small words taken out, each with probability `rate`, but not inside marked stretches."""
    edits: list[Edit] = []
    for pattern in SURPLUS:
        for match in pattern.finditer(marked.text):
            start, end = match.span()
            is_free = not marked.is_inside(start, end) and all(end <= e.start or e.end <= start for e in edits)
            if is_free and end - start < len(marked.text) and generator.random() < rate:
                edits.append(Edit(start, end, ""))
    return edits
