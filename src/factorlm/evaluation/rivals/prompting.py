"""Prompting: an instruction before the text, with the strength of guidance as its dial.

Dial 1 is the plain instruction; larger ones extrapolate (classifier-free guidance).
"""

from __future__ import annotations

from dataclasses import dataclass

from factorlm.algebra import Factor, Named, Power
from factorlm.evaluation.rivals.kept import Kept
from factorlm.evaluation.rivals.rival import Prepared, digest
from factorlm.factors.examples import Split
from factorlm.factors.prompt import Conditioned
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet


@dataclass(frozen=True)
class Prompting:
    """An instruction for each direction; nothing is learned.

    Attributes:
        name: of the wording.
        towards: what is read first when the attribute is wanted.
        away: what is read first when it is not.
        subtracts: whether to steer by the instruction for the other direction, with a negative exponent (PREADD).
        is_message: whether the instruction is a user's message in the model's chat template, and the text its answer.
    """

    name: str
    towards: str
    away: str
    subtracts: bool = False
    is_message: bool = False
    dial: str = "exponent of p(x | instruction) / p(x); 1 is the plain instruction"
    source: str = "Sanchez et al. (2023), arXiv:2306.17806; PREADD, Pei et al. (2023)"

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival; the texts are not looked at.

        Raises:
            InputError: if the instruction is a message and the model has no chat template.
        """

        def ratio(instruction: str) -> Named:
            if self.is_message:
                tokens = lm.encode_message(instruction)
                start = list(lm.start_ids)  # which the text begins with anyway
                tokens = tokens[len(start) :] if tokens[: len(start)] == start else tokens
            else:
                tokens = lm.encode_text(instruction.strip() + "\n\n")
            return Named(self.name, Conditioned(lm, tuple(tokens)) / lm)

        towards, away = ratio(self.towards), ratio(self.away)

        def factor(dial: float) -> Factor:
            if self.subtracts:
                return Power(away if dial > 0 else towards, -abs(dial))
            return Power(towards if dial > 0 else away, abs(dial))

        settings = digest([self.towards, self.away, self.subtracts, self.is_message])
        note = " | ".join(f'{"less" if self.subtracts else "after"} "{text}"' for text in (self.towards, self.away))
        return Prepared(self.name, lm, factor, 0, 0.0, settings, note)
