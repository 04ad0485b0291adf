"""What people sent, made fit to learn from: consent, personal data, contradictions and near-duplicates are seen to."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from factorlm.evaluation.diversity import words_of

How = Literal["sent", "random", "chosen"]
NEAR = 0.8  # Jaccard similarity of shingles from which two texts count as one
SHINGLE = 3  # words
SURE = 1.0
# E-mail addresses, and runs of nine and more digits as telephones, cards and accounts have them.
PERSONAL = re.compile(r"[\w.+-]+@[\w-]+\.\w[\w.-]*|(?<![\d.])\+?\d(?:[ ()/.-]{0,2}\d){8,}")
THUMBS = {"up": 1, "down": -1}

NO_CONSENT, NOTHING_SAID, PERSONAL_DATA = "without consent", "without thumb or edit", "personal data in it"
TAKEN_BACK, BOTH_THUMBS, NEAR_ONES = "changed later by its sender", "as many up as down", "near-duplicates"
NO_COMPONENT = "without a component of this prior"


class Row(Protocol):
    """A piece of feedback as the database has it."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def created(self) -> str:
        """When, in UTC and ISO 8601."""

    @property
    def tenant(self) -> str:
        """Whose."""

    @property
    def response_id(self) -> str:
        """What it is about."""

    @property
    def prompt(self) -> str:
        """What was asked."""

    @property
    def text(self) -> str:
        """What was answered."""

    @property
    def thumb(self) -> str | None:
        """Up, down or nothing."""

    @property
    def edit(self) -> str | None:
        """What the answer should have been."""

    @property
    def setting(self) -> Mapping[str, Any]:
        """What it was written with."""


class Feedbacks(Protocol):
    """Where feedback is kept."""

    def feedback(self, tenant: str | None = None, after: int = 0, limit: int | None = None) -> Sequence[Row]:
        """Rows in the order of their numbers."""


class Forgettable(Feedbacks, Protocol):
    """Where feedback is kept and can be deleted."""

    def delete_feedback(self, ids: Sequence[int]) -> Any:
        """Delete these rows for good."""


@dataclass(frozen=True)
class Event:
    """A piece of feedback to learn from.

    Attributes:
        id: of the row.
        key: hash of all that matters of it, which cards of versions name it by.
        prompt: what was answered; empty if there was none.
        text: the answer.
        thumb: up, down, or None where there is only an edit.
        edit: a better text; empty if there is none.
        created: when, in UTC and ISO 8601.
        how: sent of somebody's own accord, or asked for: at random, or because it was worth asking.
        propensity: the probability with which it was asked for; 1 for what was sent.
    """

    id: int
    key: str
    prompt: str
    text: str
    thumb: str | None
    edit: str = ""
    created: str = ""
    how: How = "sent"
    propensity: float = SURE

    @property
    def is_unbiased(self) -> bool:
        """Whether it was not picked for being uncertain or new, so that it may stand for all."""
        return self.how != "chosen"

    def line(self, *, reweight: bool = False) -> dict[str, Any]:
        """A line for `factor train --thumbs`.

        Args:
            reweight: whether what was asked for counts by the inverse of its propensity.
        """
        found: dict[str, Any] = {"prompt": self.prompt, "text": self.text, "thumb": self.thumb}
        if self.edit:
            found["edit"] = self.edit
        return {**found, "weight": 1 / self.propensity if reweight else 1.0, "time": self.created,
                "id": self.id, "event": self.key}  # fmt: skip


@dataclass(frozen=True)
class Collected:
    """What can be learned from, and what cannot.

    Attributes:
        events: in the order of their numbers.
        left_out: numbers of rows by the reason why they were left out.
    """

    events: tuple[Event, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def collect(rows: Sequence[Row], *, near: float = NEAR) -> Collected:
    """The events in these rows.

    Left out is what was sent with `consent: false` in its setting, what says nothing, what holds an e-mail address or a
    long number, and what its sender changed later. Of one text with several thumbs the majority counts, once; of texts
    that are nearly the same and got the same thumb the first.

    Args:
        rows: of the database.
        near: Jaccard similarity of runs of three words from which texts are nearly the same.
    """
    left_out: Counter[str] = Counter()
    latest: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        reason = _reason(row)
        if reason:
            left_out[reason] += 1
            continue
        place = (row.tenant, row.response_id or f"row {row.id}", row.text.strip())
        left_out[TAKEN_BACK] += place in latest
        latest[place] = row
    by_text: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(latest.values(), key=lambda row: row.id):
        by_text[row.prompt.strip(), row.text.strip()].append(row)
    found: list[Event] = []
    for same in by_text.values():
        kept, lost = _vote([event_of(row) for row in same])
        found += kept
        left_out.update(lost)
    found.sort(key=lambda event: event.id)
    kept = without_near_duplicates(found, near)
    left_out[NEAR_ONES] += len(found) - len(kept)
    return Collected(tuple(kept), {reason: count for reason, count in left_out.items() if count})


def event_of(row: Row) -> Event:
    """The event in a row, whatever it is worth."""
    text, edit = row.text.strip(), (row.edit or "").strip()
    asked = row.setting.get("flywheel") if isinstance(row.setting, Mapping) else None
    asked = asked if isinstance(asked, Mapping) else {}
    propensity, how = asked.get("propensity"), asked.get("how")
    is_known = isinstance(propensity, int | float) and not isinstance(propensity, bool) and 0 < propensity <= 1
    return Event(
        id=row.id,
        key=key_of(row),
        prompt=row.prompt.strip(),
        text=text,
        thumb=row.thumb if row.thumb in THUMBS else None,
        edit="" if edit == text else edit,
        created=str(row.created),
        how=how if how in ("random", "chosen") else "sent",
        propensity=float(propensity) if is_known and propensity is not None else SURE,
    )


def key_of(row: Row) -> str:
    """Hash of a row: of its number, time and sender, so that none can be guessed, and of its content."""
    parts = (row.id, row.created, row.tenant, row.response_id, row.prompt, row.text, row.thumb, row.edit)
    return hashlib.sha256("\0".join(map(repr, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def component_lines(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Lines for `prior tilt --thumbs`, and how many rows were left out, by reason.

    Args:
        rows: of the database.
        names: of the components of the prior; the component of a response is looked for in the setting, as
            `component`, or under `prior` or `factorlm`.
    """
    left_out: Counter[str] = Counter()
    latest: dict[tuple[str, str, str], tuple[Row, str]] = {}
    for row in rows:
        component = _component(row.setting)
        if row.setting.get("consent") is False:
            left_out[NO_CONSENT] += 1
        elif row.thumb not in THUMBS:
            left_out["without thumb"] += 1
        elif component not in names or component is None:
            left_out[NO_COMPONENT] += 1
        else:
            place = (row.tenant, row.response_id or f"row {row.id}", row.text.strip())
            left_out[TAKEN_BACK] += place in latest
            latest[place] = (row, component)
    lines = [
        {"component": component, "thumb": row.thumb, "time": str(row.created), "id": row.id, "event": key_of(row)}
        for row, component in sorted(latest.values(), key=lambda found: found[0].id)
    ]
    return lines, {reason: count for reason, count in left_out.items() if count}


def without_near_duplicates(events: Sequence[Event], near: float = NEAR) -> list[Event]:
    """Of events with like prompt, text and edit and the same thumb the first."""
    by_thumb: dict[str | None, list[Event]] = defaultdict(list)
    for event in events:
        by_thumb[event.thumb].append(event)
    kept = {
        same[i].id
        for same in by_thumb.values()
        for i, first in enumerate(firsts([f"{e.prompt}\n{e.text}\n{e.edit}" for e in same], near))
        if first == i
    }
    return [event for event in events if event.id in kept]


def firsts(texts: Sequence[str], near: float = NEAR) -> list[int]:
    """For each text the first earlier one that it nearly equals and that is no such copy itself, else itself.

    Only texts that share one of their rarest shingles are compared; those that do not cannot be near enough.
    Source: prefix filtering, Chaudhuri et al. (2006); Bayardo et al. (2007).
    """
    sets = [shingles(text) for text in texts]
    frequency = Counter(shingle for found in sets for shingle in found)
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    answer = []
    for n, found in enumerate(sets):
        rare_first = sorted(found, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rare_first[: len(found) - math.ceil(near * len(found) - 1e-9) + 1]
        candidates = sorted({m for shingle in prefix for m in holders[shingle]})
        first = next((m for m in candidates if similarity(sets[m], found) >= near), n)
        answer.append(first)
        if first == n:
            for shingle in prefix:
                holders[shingle].append(n)
    return answer


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Runs of three words of a text; all of a shorter one, and the characters of one without words."""
    words = words_of(text) or tuple(text.split())
    return frozenset(words[i : i + SHINGLE] for i in range(max(1, len(words) - SHINGLE + 1)))


def similarity(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Jaccard similarity: shared shingles over all."""
    return len(one & other) / len(one | other)


def _reason(row: Row) -> str:
    """Why a row cannot be learned from; empty if it can."""
    text, edit = row.text.strip(), (row.edit or "").strip()
    if row.setting.get("consent") is False:
        return NO_CONSENT
    if not text or (row.thumb not in THUMBS and edit in ("", text)):
        return NOTHING_SAID
    return PERSONAL_DATA if any(PERSONAL.search(part) for part in (row.prompt, text, edit)) else ""


def _vote(same: list[Event]) -> tuple[list[Event], dict[str, int]]:
    """Of events about one text those that count: the first of the majority, and what has another edit."""
    balance = sum(THUMBS[event.thumb] for event in same if event.thumb)
    rated = [event for event in same if event.thumb]
    winners = [event for event in rated if balance * THUMBS[event.thumb or "up"] > 0]
    found, seen = list(winners[:1]), {event.edit for event in winners[:1]}
    for event in same:
        if event.edit and event.edit not in seen:  # what somebody wrote instead stays, whoever won
            seen.add(event.edit)
            found.append(event if event.thumb is None else _only_edit(event))
    lost = len(same) - len(found)
    return found, {BOTH_THUMBS if rated and not winners else NEAR_ONES: lost} if lost else {}


def _only_edit(event: Event) -> Event:
    return Event(event.id, event.key, event.prompt, event.text, None, event.edit, event.created, event.how,
                 event.propensity)  # fmt: skip


def _component(setting: Mapping[str, Any]) -> str | None:
    places = (setting, setting.get("prior"), setting.get("factorlm"))
    found = (place.get("component") for place in places if isinstance(place, Mapping))
    return next((component for component in found if isinstance(component, str)), None)
