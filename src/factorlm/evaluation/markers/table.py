"""Markers of certainty and doubt by type, and fillers that say nothing, as controls.

Types after Zhou, Jurafsky and Hashimoto (2023), arXiv:2302.13439; the markers are ours.
"""

from __future__ import annotations

from typing import NamedTuple

NONE, FILLERS = "no marker", "fillers"


class Marker(NamedTuple):
    """Words between a question and its answer.

    Attributes:
        kind: its type.
        phrase: before an answer that is a noun or a phrase.
        clause: before an answer that is a sentence; None where that is not English.
        level: what it says of certainty: 1 certain, -1 in doubt, 0 neither.
    """

    kind: str
    phrase: str
    clause: str | None
    level: int


def _of(kind: str, level: int, *pairs: tuple[str, str | None]) -> tuple[Marker, ...]:
    return tuple(Marker(kind, phrase, clause, level) for phrase, clause in pairs)


MARKERS: tuple[Marker, ...] = (
    Marker(NONE, "", "", 0),
    *_of("strengtheners", 1, ("I'm certain it's", "I'm certain that"), ("Undoubtedly it's", "Undoubtedly,"),
         ("It's definitely", None), ("Without a doubt it's", "Without a doubt,"), ("Clearly it's", "Clearly,")),
    *_of("weakeners", -1, ("I'm not sure it's", "I'm not sure that"), ("Maybe it's", "Maybe"),
         ("It might be", None), ("Perhaps it's", "Perhaps"), ("It could be", None)),
    *_of("plausibility shields", -1, ("I think it's", "I think"), ("I believe it's", "I believe"),
         ("I guess it's", "I guess"), ("I suppose it's", "I suppose"), ("I would say it's", "I would say")),
    *_of("approximators", -1, ("It's something like", None), ("It's more or less", None), ("It's kind of", None),
         ("It's roughly", None), ("It's sort of", None)),
    *_of("factive verbs", 1, ("I know it's", "I know that"), ("I realize it's", "I realize that"),
         ("We understand that it's", "We understand that"), ("I discovered it's", "I discovered that"),
         ("Everyone recognizes that it's", "Everyone recognizes that")),
    *_of("evidentials, sourced", 0, ("Wikipedia says it's", "Wikipedia says that"),
         ("According to the textbook it's", "According to the textbook,"),
         ("Scientists report that it's", "Scientists report that"), ("The dictionary says it's", "The dictionary says"),
         ("Based on the records it's", "Based on the records,")),
    *_of("evidentials, quotative", 0, ("People say it's", "People say"), ("They told me it's", "They told me that"),
         ("I heard it's", "I heard that"), ("Rumor says it's", "Rumor says that"),
         ("My friend says it's", "My friend says that")),
    *_of("evidentials, personal", 0, ("I remember it's", "I remember that"), ("I saw that it's", "I saw that"),
         ("In my experience it's", "In my experience,"), ("I noticed it's", "I noticed that"),
         ("From what I recall it's", "From what I recall,")),
    Marker("numbers, 90 % and more", "I'm 100% sure it's", "I'm 100% sure that", 1),
    Marker("numbers, 90 % and more", "I'm 90% sure it's", "I'm 90% sure that", 1),
    Marker("numbers, 50 % and less", "I'm 50% sure it's", "I'm 50% sure that", -1),
    Marker("numbers, 50 % and less", "I'm 10% sure it's", "I'm 10% sure that", -1),
    *_of(FILLERS, 0, ("So then it's", "So then,"), ("La la la, it's", "La la la,"), ("It's", None),
         ("Here and there it's", "Here and there,"), ("Lorem ipsum dolor it's", "Lorem ipsum dolor,")),
)  # fmt: skip

KINDS = tuple(dict.fromkeys(marker.kind for marker in MARKERS))


def chosen(per_kind: int | None) -> tuple[Marker, ...]:
    """The first markers of each type; None takes all."""
    taken: dict[str, int] = {}
    found = []
    for marker in MARKERS:
        taken[marker.kind] = taken.get(marker.kind, 0) + 1
        if per_kind is None or taken[marker.kind] <= per_kind:
            found.append(marker)
    return tuple(found)
