"""What one part of a suite found."""

from __future__ import annotations

from collections.abc import Sequence
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

    @staticmethod
    def joined(parts: Sequence[Part]) -> Part:
        """Several parts as one, in order."""
        return Part(
            sections=tuple(section for part in parts for section in part.sections),
            measures={name: values for part in parts for name, values in part.measures.items()},
            headlines=tuple(line for part in parts for line in part.headlines),
            cautions=tuple(line for part in parts for line in part.cautions),
        )
