"""DExperts: the base times the ratio of two fine-tuned models, one of each class, with an exponent as its dial."""

from __future__ import annotations

from dataclasses import dataclass, field

from factorlm.algebra import Factor, Power
from factorlm.evaluation.rivals.finetuning import FineTuning, fine_tuned
from factorlm.evaluation.rivals.kept import Kept, Learned
from factorlm.evaluation.rivals.rival import Prepared, digest, digest_of_tensors
from factorlm.factors.contrast import contrast
from factorlm.factors.examples import Split
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet


@dataclass(frozen=True)
class DExperts:
    """log p + dial (log p_expert - log p_anti).

    Attributes:
        settings: of both fine-tunings.
    """

    settings: FineTuning = field(default_factory=FineTuning)
    name: str = "DExperts"
    dial: str = "exponent of p_expert / p_anti-expert"
    source: str = (
        "Liu et al. (2021), arXiv:2105.03023; here with LoRA fine-tunes of the base, and with truncation after the "
        "composition, as for all"
    )

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival."""
        experts, learned = fine_tuned_pair(lm, parts, self.settings, kept, report)
        ratio = contrast(self.name, *experts)

        def factor(dial: float) -> Factor:
            return Power(ratio, dial)

        return Prepared(
            self.name, lm, factor, num_parameters(learned), sum(part.seconds for part in learned),
            digest([digest_of_tensors(part.tensors) for part in learned]),
        )  # fmt: skip


def fine_tuned_pair(
    lm: CausalLM, parts: Split, settings: FineTuning, kept: Kept, report: Report
) -> tuple[tuple[CausalLM, CausalLM], tuple[Learned, Learned]]:
    """The base fine-tuned on the texts with the attribute and on those without, and both changes."""
    (expert, change), (anti, other) = (
        fine_tuned(lm, [e.text for e in parts.train if e.is_positive == is_positive], settings,
                   name=f"texts {'with' if is_positive else 'without'} the attribute", kept=kept, report=report)
        for is_positive in (True, False)
    )  # fmt: skip
    return (expert, anti), (change, other)


def num_parameters(learned: tuple[Learned, ...]) -> int:
    """How many numbers were learned in all."""
    return sum(tensor.numel() for part in learned for tensor in part.tensors.values())
