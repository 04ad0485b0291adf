"""What an attack is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from factorlm.evaluation.redteam.attempts import Attempt, Request
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.inference.expression import Composed


@dataclass(frozen=True)
class Ground:
    """What attacks work with.

    Attributes:
        bench: cache, seed and progress.
        target: the model that is attacked.
        attacker: the model with the exponents of its safety factors negated; None where it has none.
        sampling: how answers are drawn.
        steps: of a search for suffixes.
        candidates: that each step of the search weighs.
        suffix_tokens: of a suffix.
        searched: requests that suffixes are searched for, as it is dear; 0 takes all.
    """

    bench: Workbench
    target: Composed
    attacker: Composed | None
    sampling: Sampling
    steps: int = 12
    candidates: int = 16
    suffix_tokens: int = 8
    searched: int = 0


@dataclass(frozen=True)
class Attack:
    """A way of getting requests granted.

    Attributes:
        description: in a sentence.
        attempts: from the ground and requests to one attempt each; fewer where it takes only the first ones.
        is_repeated: whether each attempt is made several times, and one success is enough.
        needs_attacker: whether it needs a model with negated exponents.
    """

    description: str
    attempts: Callable[[Ground, Sequence[Request]], list[Attempt]]
    is_repeated: bool = False
    needs_attacker: bool = False
