"""Attacks by name. A new one is a file here and a line in the table."""

from factorlm.evaluation.redteam.attacks.attack import Attack, Ground
from factorlm.evaluation.redteam.attacks.negated import NEGATED, factors_in, negated, without
from factorlm.evaluation.redteam.attacks.persona import PERSONA
from factorlm.evaluation.redteam.attacks.plain import BEST_OF_N, PLAIN
from factorlm.evaluation.redteam.attacks.prefix import PREFIX
from factorlm.evaluation.redteam.attacks.suffix import SUFFIX_GRADIENT, SUFFIX_RANDOM
from factorlm.evaluation.redteam.attacks.suppression import SUPPRESSION

ATTACKS: dict[str, Attack] = {
    "plain": PLAIN,
    "best-of-n": BEST_OF_N,
    "persona": PERSONA,
    "prefix": PREFIX,
    "suppression": SUPPRESSION,
    "negated": NEGATED,
    "suffix-random": SUFFIX_RANDOM,
    "suffix-gradient": SUFFIX_GRADIENT,
}

__all__ = ["ATTACKS", "Attack", "Ground", "factors_in", "negated", "without"]
