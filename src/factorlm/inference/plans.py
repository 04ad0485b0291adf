"""What a text was to say before it was written: the meaning that was drawn for it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 24  # of a line; of more steps every so many is shown


@dataclass(frozen=True)
class Plan:
    """The latent of one response.

    Attributes:
        guides: names, in the order of everything below.
        strengths: of each.
        probs: of the text to be written, by each guide, from the guess at each step of denoising, step by step: latents
            move texts only so far as the decoder heeds them; empty with particles.
        planned: probability that each guide gives the latent.
        written: probability that each gives the text; empty where nothing was written.
        likeness: cosine of the text to the latent: how far the decoder heeded it; None where nothing was written.
        nearest: real sentences that mean most like the latent, with their cosines, best first.
    """

    guides: tuple[str, ...]
    strengths: tuple[float, ...]
    probs: tuple[tuple[float, ...], ...]
    planned: tuple[float, ...]
    written: tuple[float, ...] = ()
    likeness: float | None = None
    nearest: tuple[tuple[str, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "guides": {
                name: {"strength": self.strengths[k], "planned": self.planned[k],
                       "written": self.written[k] if self.written else None,
                       "steps": [step[k] for step in self.probs]}
                for k, name in enumerate(self.guides)
            },
            "likeness": self.likeness,
            "nearest": [{"text": text, "cosine": cosine} for text, cosine in self.nearest],
        }  # fmt: skip

    def bars(self, guide: int) -> str:
        """The probabilities over the steps as bars, from noise to the latent."""
        number = len(self.probs)
        shown = [i * (number - 1) // max(1, min(number, MOST_BARS) - 1) for i in range(min(number, MOST_BARS))]
        return "".join(BARS[min(int(self.probs[i][guide] * len(BARS)), len(BARS) - 1)] for i in shown)
