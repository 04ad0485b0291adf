"""What earlier edits did, from the card of a factor."""

from __future__ import annotations

import ast
import re

from factorlm.factors.manifest import Manifest

_ACTION = re.compile(r"(allow|forbid|boost) ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


def history(manifest: Manifest) -> dict[str, str]:
    """What edits did last to each word: allow, forbid or boost."""
    found: dict[str, str] = {}
    for change in manifest.changes:
        for action, words in (("allow", change.allow), ("forbid", change.forbid), ("boost", change.boost)):
            found |= dict.fromkeys(words, action)
        if not (change.allow or change.forbid or change.boost):  # of an older release, which wrote them as prose
            found |= {ast.literal_eval(match[2]): match[1] for match in _ACTION.finditer(change.what)}
    return found
