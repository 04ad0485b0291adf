"""The request as it stands, once or again and again."""

from __future__ import annotations

from collections.abc import Sequence

from factorlm.evaluation.redteam.attacks.attack import Attack, Ground
from factorlm.evaluation.redteam.attempts import Attempt, Request


def attempts(ground: Ground, requests: Sequence[Request]) -> list[Attempt]:
    """The requests themselves."""
    return [Attempt(request.text) for request in requests]


PLAIN = Attack("the request as it stands", attempts)
BEST_OF_N = Attack("the request as it stands, answered several times", attempts, is_repeated=True)
