"""Errors of whole words: what a speech recogniser mistakes, and how people shorten what they type."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from factorlm.text.perturbations.edits import Edit, Marked, words_of

SOUND_ALIKE = (
    ("to", "two", "too"), ("for", "four", "fore"), ("there", "their"), ("hear", "here"), ("right", "write"),
    ("buy", "by", "bye"), ("one", "won"), ("eight", "ate"), ("know", "no"), ("new", "knew"), ("see", "sea"),
    ("son", "sun"), ("week", "weak"), ("meet", "meat"), ("flour", "flower"), ("hour", "our"), ("plane", "plain"),
    ("fair", "fare"), ("way", "weigh"), ("wait", "weight"), ("where", "wear"), ("which", "witch"), ("would", "wood"),
    ("peace", "piece"), ("pair", "pear"), ("mail", "male"), ("sale", "sail"), ("tail", "tale"), ("role", "roll"),
    ("road", "rode"), ("read", "red"), ("blue", "blew"), ("through", "threw"), ("whole", "hole"), ("night", "knight"),
    ("not", "knot"), ("made", "maid"), ("board", "bored"), ("be", "bee"), ("sent", "cent", "scent"), ("site", "sight"),
    ("some", "sum"), ("steak", "stake"), ("steel", "steal"), ("sweet", "suite"), ("their", "they're"), ("tea", "tee"),
    ("time", "thyme"), ("toe", "tow"), ("vain", "vein"), ("waist", "waste"), ("your", "you're"), ("its", "it's"),
    ("i", "eye"), ("in", "inn"), ("past", "passed"), ("rain", "reign"), ("seat", "cede"), ("seen", "scene"),
    ("great", "grate"), ("hi", "high"), ("least", "leased"), ("cheap", "cheep"), ("isle", "aisle"),
)  # fmt: skip
OTHERS: dict[str, tuple[str, ...]] = {}
for _group in SOUND_ALIKE:
    for _word in _group:
        OTHERS[_word] = tuple(dict.fromkeys([*OTHERS.get(_word, ()), *(w for w in _group if w != _word)]))
HESITATIONS = ("uh", "um", "er", "you know", "like")
RARE = 0.25  # of the rate: words run together, and hesitations between words
SHORT = {
    "you": "u", "your": "ur", "are": "r", "be": "b", "see": "c", "why": "y", "please": "pls", "thanks": "thx",
    "thank": "thx", "and": "n", "with": "w/", "without": "w/o", "because": "bc", "before": "b4", "about": "abt",
    "for": "4", "to": "2", "too": "2", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10", "first": "1st", "second": "2nd", "third": "3rd",
    "tomorrow": "tmrw", "tonight": "2nite", "today": "2day", "night": "nite", "morning": "mrng", "monday": "mon",
    "tuesday": "tue", "wednesday": "wed", "thursday": "thu", "friday": "fri", "saturday": "sat", "sunday": "sun",
    "minutes": "mins", "hours": "hrs", "people": "ppl", "information": "info", "restaurant": "resto",
    "playlist": "plist", "movie": "mov", "great": "gr8", "later": "l8r", "through": "thru", "though": "tho",
    "something": "sth", "from": "frm", "what": "wat",
}  # fmt: skip
TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def speech(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """Words heard as others of the same sound, words run together, and hesitations.

    Args:
        marked: the text.
        rate: share of words with a twin in sound that are mistaken; the other errors are rarer.
        generator: of all choices.
    """
    edits = []
    for match in TOKEN.finditer(marked.text):
        others = OTHERS.get(match[0].lower(), ())
        if others and generator.random() < rate:
            edits.append(Edit(*match.span(), others[int(generator.integers(len(others)))]))
    places = words_of(marked.text)
    for (_, end), (start, _) in pairwise(places):
        drawn = generator.random()
        is_border = any(span.start == start or span.end == end for span in marked.spans)
        is_within = any(span.start < start and end < span.end for span in marked.spans)
        if drawn < RARE * rate / 2 and not is_border:  # a word of two slots would have no tag
            edits.append(Edit(end, start, ""))
        elif RARE * rate / 2 <= drawn < RARE * rate and not is_within:
            edits.append(Edit(end, end, f" {HESITATIONS[int(generator.integers(len(HESITATIONS)))]}"))
    return edits


def abbreviations(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """Words in their short forms of messages, and numbers in digits.

    Args:
        marked: the text.
        rate: share of the words that have a short form.
        generator: of all choices.
    """
    return [
        Edit(*match.span(), SHORT[match[0].lower()])
        for match in TOKEN.finditer(marked.text)
        if match[0].lower() in SHORT and generator.random() < rate
    ]
