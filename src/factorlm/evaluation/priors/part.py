"""What one part of the suite `prior` found."""

from __future__ import annotations

from dataclasses import dataclass, field

from factorlm.evaluation.document import Section
from factorlm.evaluation.intervals import Estimate


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        sections: in order.
        measures: the numbers by name for scripts: measure -> what it was measured of -> estimate.
        headlines: the findings in a sentence each.
        cautions: what the numbers cannot bear, in a sentence each.
    """

    sections: tuple[Section, ...]
    measures: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    headlines: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
