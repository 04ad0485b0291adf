"""What people preferred, for training a head: pairs of texts, and thumbs, read from files and split by prompt."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factorlm.errors import InputError
from factorlm.factors.examples import FEWEST_TEXTS, numbered_lines

DEV_SHARE, MOST_DEV = 0.2, 150  # a pair says less than a labelled text, and both its texts are read
MOST_TRAIN = 10_000  # pairs, and rated texts
LARGEST_WEIGHT = 10.0  # importance weights are clipped: a few logged rarities shall not decide
MATCHES_OF_A_THUMB = 4  # texts of the other thumb that each rated text is compared with
THUMBS = {"up": True, "down": False, "true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Pair:
    """Two texts for one prompt, of which somebody preferred the first.

    Attributes:
        prompt: what both answer; it is read before them and not scored. Empty if there was none.
        chosen: the better text.
        rejected: the other.
        weight: how much it counts.
    """

    prompt: str
    chosen: str
    rejected: str
    weight: float = 1.0


@dataclass(frozen=True)
class Rated:
    """A text with a thumb, for which there is no text with the other thumb to compare it with."""

    prompt: str
    text: str
    is_positive: bool
    weight: float = 1.0


@dataclass(frozen=True)
class Preferences:
    """What people preferred: pairs, and texts that were rated alone."""

    pairs: tuple[Pair, ...]
    rated: tuple[Rated, ...] = ()


def from_pairs(path: Path | str) -> Preferences:
    """Pairs from JSON lines with `chosen`, `rejected`, and, where there is one, `prompt` and `weight`.

    Raises:
        InputError: naming the line that lacks a field, or whose two texts are the same.
    """
    pairs = []
    for where, row in _objects(path, "chosen and rejected"):
        chosen, rejected = (_text(row, key, where) for key in ("chosen", "rejected"))
        if chosen == rejected:
            raise InputError(f"two different texts are needed in {where}, got the same as chosen and rejected; drop it")
        pairs.append(Pair(_text(row, "prompt", where, may_lack=True), chosen, rejected, _weight(row, where)))
    return Preferences(tuple(dict.fromkeys(pairs)))


def from_thumbs(path: Path | str) -> Preferences:
    """Preferences from JSON lines with `text` (or `response`), `thumb`, and maybe `prompt`, `edit` and `weight`.

    What draws a thumb is in part the prompt. So texts of one prompt with different thumbs are compared with each
    other, which rids the comparison of whatever is common to the prompt: the likelihood of a logistic model with an
    intercept for each prompt, given how many thumbs are up (Chamberlain, 1980). Texts without such a counterpart are
    kept as rated texts with one intercept for all. A text that somebody edited has lost against the edited one.

    Raises:
        InputError: naming the line that lacks a field, or the two lines that give one text both thumbs.
    """
    return of_thumbs(_objects(path, "text and thumb"))


def of_thumbs(rows: Iterable[tuple[str, dict[str, Any]]]) -> Preferences:
    """As `from_thumbs`, from the objects that its lines hold, each with the place to name in complaints."""
    rated: dict[tuple[str, str], tuple[Rated, str]] = {}
    edits = []
    for where, row in rows:
        text = _text(row, "text" if "text" in row else "response", where)
        prompt, edit = (_text(row, key, where, may_lack=True) for key in ("prompt", "edit"))
        weight = _weight(row, where)
        if edit == text:
            raise InputError(f"an edit that differs from the text is needed in {where}, got the same; drop the edit")
        if edit:
            edits.append(Pair(prompt, edit, text, weight))
        if row.get("thumb") is None and edit:
            continue
        is_positive = THUMBS.get(str(row.get("thumb")).lower())
        if is_positive is None:
            raise InputError(f"a thumb, up or down (or 1 or 0), is needed in {where}, got {row.get('thumb')!r}")
        known, known_where = rated.setdefault((prompt, text), (Rated(prompt, text, is_positive, weight), where))
        if known.is_positive != is_positive:
            raise InputError(
                f"one thumb for each text is needed, got both for {text[:40]!r}: {known_where} and {where}"
            )
    by_prompt: dict[str, tuple[list[Rated], list[Rated]]] = {}
    for one, _ in rated.values():
        by_prompt.setdefault(one.prompt, ([], []))[one.is_positive].append(one)
    pairs, alone = edits, []
    for prompt, (down, up) in by_prompt.items():
        if prompt and up and down:
            pairs += _matches(up, down)
        else:
            alone += up + down
    return Preferences(tuple(dict.fromkeys(pairs)), tuple(alone))


def _matches(up: list[Rated], down: list[Rated]) -> Iterator[Pair]:
    """Every text against a few of the other side, so that long lists do not count by the product of their lengths."""
    shifts = min(MATCHES_OF_A_THUMB, len(up), len(down))
    for shift in range(shifts):
        for n in range(max(len(up), len(down))):
            better, worse = up[n % len(up)], down[(n + shift) % len(down)]
            yield Pair(better.prompt, better.text, worse.text, math.sqrt(better.weight * worse.weight) / shifts)


def _objects(path: Path | str, wanted: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each JSON object of a file, with the place to name in complaints."""
    for number, line in numbered_lines(path):
        where = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"a JSON object with {wanted} is needed in {where}, got {line[:60]!r}")
        yield where, row


def _text(row: dict[str, Any], key: str, where: str, *, may_lack: bool = False) -> str:
    found = row.get(key)
    if found is None and may_lack:
        return ""
    if not isinstance(found, str) or not (found.strip() or may_lack):
        got = f"only {', '.join(row) or 'an empty object'}" if found is None else repr(found)[:60]
        raise InputError(f"a text under {key!r} is needed in {where}, got {got}")
    return found.strip()


def _weight(row: dict[str, Any], where: str) -> float:
    found = row.get("weight", 1.0)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < math.inf:
        raise InputError(f"a weight is a positive number, got {found!r} in {where}; leave it out for 1")
    return min(float(found), LARGEST_WEIGHT)


def split_preferences(preferences: Preferences) -> tuple[Preferences, Preferences]:
    """What to learn from and what to hold out; no prompt, and without prompts no text, is on both sides.

    Raises:
        InputError: if there are too few prompts with a pair, and too few rated texts of one thumb.
    """
    groups = groups_of(preferences)
    kinds: dict[int, set[str]] = {}
    items: list[Pair | Rated] = [*preferences.pairs, *preferences.rated]
    for group, item in zip(groups, items, strict=True):
        kinds.setdefault(group, set()).add("pair" if isinstance(item, Pair) else str(item.is_positive))
    names: dict[int, str] = {}
    for group, item in zip(groups, items, strict=True):
        names.setdefault(group, _digest(item))
        names[group] = min(names[group], _digest(item))  # the same whatever the order, and whoever won
    held: set[int] = set()
    counts = {}
    for kind in ("pair", "True", "False"):
        mine = sorted((g for g, found in kinds.items() if kind in found and g not in held), key=lambda g: names[g])
        counts[kind] = sum(kind in found for found in kinds.values())
        if counts[kind] >= FEWEST_TEXTS:
            held |= set(mine[: min(MOST_DEV, max(2, int(DEV_SHARE * len(mine))))])
    if counts["pair"] < FEWEST_TEXTS and min(counts["True"], counts["False"]) < FEWEST_TEXTS:
        rated = f", and {counts['True']} up and {counts['False']} down without one" if preferences.rated else ""
        raise InputError(
            f"pairs of at least {FEWEST_TEXTS} different prompts are needed (or pairs without a prompt and without a "
            f"text in common), got {counts['pair']}{rated}; add some (a few hundred steer well)"
        )
    train, dev = (
        [item for group, item in zip(groups, items, strict=True) if (group in held) == wanted]
        for wanted in (False, True)
    )
    return _sorted(train, MOST_TRAIN), _sorted(dev, 2 * MOST_DEV)


def _sorted(items: list[Pair | Rated], most: int) -> Preferences:
    """Pairs and rated texts apart, of each at most so many, taken evenly."""
    pairs = [item for item in items if isinstance(item, Pair)]
    rated = [item for item in items if isinstance(item, Rated)]
    return Preferences(tuple(pairs[:: _stride(pairs, most)]), tuple(rated[:: _stride(rated, most)]))


def _stride(items: Sequence[object], most: int) -> int:
    return max(1, -(-len(items) // most))


def groups_of(preferences: Preferences) -> list[int]:
    """A number for each pair and then each rated text: the same for all that share a prompt or, without, a text."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]  # shorter ways for the next one who asks
            node = parent[node]
        return node

    firsts = []
    items: list[Pair | Rated] = [*preferences.pairs, *preferences.rated]
    for item in items:
        texts = (item.chosen, item.rejected) if isinstance(item, Pair) else (item.text,)
        nodes = [f"prompt {item.prompt}"] if item.prompt else [f"text {text}" for text in texts]
        for node in nodes:
            parent[root(node)] = root(nodes[0])
        firsts.append(nodes[0])
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(node), len(numbers)) for node in firsts]


def _digest(item: Pair | Rated) -> str:
    texts = sorted((item.chosen, item.rejected)) if isinstance(item, Pair) else [item.text]
    return hashlib.sha256((item.prompt or "\0".join(texts)).encode()).hexdigest()


def fingerprint(preferences: Preferences) -> str:
    """Hash of the texts and of what was preferred, in order."""
    digest = hashlib.sha256()
    for item in itertools.chain(preferences.pairs, preferences.rated):
        digest.update((repr(item) + "\n").encode())
    return digest.hexdigest()[:16]
