"""What the numbers of factors and of one model cannot bear, in a sentence each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from factorlm.evaluation.constrained.sections import Found
from factorlm.evaluation.constrained.ways import MONOLITHIC

POOR_JUDGE = 0.75
SHARED = 0.01  # of a head's texts; below that it is by accident


def cautions(found: Found, counts: Sequence[int], wanted: Sequence[int]) -> tuple[str, ...]:
    """All that hold for what was measured.

    Args:
        found: all texts.
        counts: of constraints.
        wanted: the counts that were asked for.
    """
    num_prompts = len(found.work.prompts)
    lines = [
        f"The fine-tuned model learned from a mixture of {found.work.writing.texts} texts of each constraint, each of "
        "which meets its own constraint and was not chosen for the others: texts known to meet all do not exist. The "
        "heads of the store learned from all texts of their recipes, with and without the attribute, and where their "
        "cards say so from texts of the model's own.",
    ]
    beyond = [k for k in counts if found.made[k].exponents[MONOLITHIC] > 1]
    if beyond:
        lines.append(
            f"For K = {', '.join(map(str, beyond))} the fine-tuned model had to be pushed beyond where training left "
            "it to move as far as the factors; with more texts or steps it would need less."
        )
    lines += found.work.cautions
    poor = {c.title: e.accuracy for c, e in found.work.examiners.items() if e.accuracy < POOR_JUDGE}
    if poor:
        listed = ", ".join(f"{title} ({accuracy:.0%})" for title, accuracy in poor.items())
        lines.append(f"These judges err often, so their rates are pulled towards one half: {listed}.")
    lines += [
        f"The judge of {c.title} learned from {e.shared:.0%} of the texts that its head learned from, so it may take "
        "the manner of these texts for the attribute, in favour of whatever learned from them."
        for c, e in found.work.examiners.items()
        if e.shared > SHARED
    ]
    missing = [k for k in wanted if k > len(found.constraints)]
    if missing:
        lines.append(f"K = {', '.join(map(str, missing))} was asked for, but there are only {len(found.constraints)}.")
    if num_prompts < 100:
        lines.append(
            f"With {num_prompts} prompts a rate near one half is known to about ±{1 / math.sqrt(num_prompts):.0%}."
        )
    return tuple(lines)
