"""What people think of components: a Beta distribution for each, from thumbs that fade with time.

Since one component writes each response, thumbs are a bandit with K arms; Thompson sampling draws ratings from these
distributions. Source: Thompson (1933); Chapelle and Li (2011).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from factorlm.errors import InputError
from factorlm.prior.corpus import numbered_lines

KEPT_A_DAY = 0.99  # of a thumb's weight
THUMBS = {"up": True, "down": False, "true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Thumb:
    """One rating.

    Attributes:
        component: that wrote what was rated.
        is_up: whether it was liked.
        time: when; None where it was not noted, which does not fade.
    """

    component: str
    is_up: bool
    time: datetime | None = None


def read_thumbs(path: Path | str, names: Sequence[str]) -> list[Thumb]:
    """Thumbs from JSON lines with `component`, `thumb` (up or down) and maybe `time` (ISO 8601).

    Raises:
        InputError: naming the line that cannot be used.
    """
    found = []
    for number, line in numbered_lines(path):
        where = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except ValueError:
            row = line
        found.append(of_line(row, names, where))
    return found


def of_line(row: Any, names: Sequence[str], where: str) -> Thumb:
    """A rating from the object that a line holds.

    Raises:
        InputError: naming where it stands if it cannot be used.
    """
    try:
        component, thumb = str(row["component"]), str(row["thumb"]).lower()
        time = datetime.fromisoformat(row["time"]) if row.get("time") else None
    except (ValueError, KeyError, TypeError, AttributeError):
        shown = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
        raise InputError(f"component, thumb and maybe an ISO time are needed in {where}, got {shown[:80]!r}") from None
    if component not in names or thumb not in THUMBS:
        raise InputError(
            f"a component among {', '.join(names)} and a thumb up or down are needed in {where}, got "
            f"{component!r} and {thumb!r}"
        )
    return Thumb(component, THUMBS[thumb], time.astimezone(UTC) if time else None)


def ratings(thumbs: Sequence[Thumb], names: Sequence[str], *, seed: int | None = None) -> list[float]:
    """The rating of each component in [0, 1]: the mean of Beta(1 + ups, 1 + downs), or with a seed a draw from it.

    A thumb counts 0.99 for each day that it is older than the latest one.
    """
    latest = max((t.time for t in thumbs if t.time is not None), default=None)
    counts = {name: [1.0, 1.0] for name in names}
    for thumb in thumbs:
        days = (latest - thumb.time).total_seconds() / 86400 if latest is not None and thumb.time is not None else 0.0
        counts[thumb.component][0 if thumb.is_up else 1] += KEPT_A_DAY**days
    if seed is None:
        return [ups / (ups + downs) for ups, downs in counts.values()]
    generator = np.random.default_rng(seed)
    return [float(generator.beta(ups, downs)) for ups, downs in counts.values()]
