"""`--reward NAME` or `NAME=WEIGHT`: rewards of whole responses that a text is chosen by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.inference import Model, Response, Sampling
    from factorlm.inference.rewarded import Rewards

BEST_OF_N = "best-of-n"


def check(wanted: list[str], beta: float, sampler: str) -> None:
    """Complain before anything slow.

    Raises:
        InputError: where rewards and sampler do not go together.
    """
    if wanted and sampler == "local":
        raise InputError("--reward judges whole texts, got --sampler local; take --sampler best-of-n or smc")
    if sampler == BEST_OF_N and not wanted:
        raise InputError("--sampler best-of-n chooses by a reward, got none; add --reward NAME")
    if not (beta > 0 and math.isfinite(beta)):
        raise InputError(f"a positive --beta is needed, got {beta:g}; 0.5 is usual, less is more")


def rewards_of(wanted: list[str], model: Model) -> Rewards | None:
    """The sum of the rewards on the command line; None if there are none."""
    from factorlm.cli import faders
    from factorlm.factors import factor
    from factorlm.inference.rewarded import Rewards

    if not wanted:
        return None
    found = faders.parse(wanted)
    if any(fader.exponent is not None for fader in found):
        raise InputError("a reward is given as NAME or NAME=WEIGHT, got an exponent; --beta divides all rewards")
    weights = [1.0 if fader.strength is None else fader.strength for fader in found]
    return Rewards.of_factors([factor(fader.name) for fader in found], weights, model.lm)


def best(
    model: Model, prompt: str, rewards: Rewards, *, of: int, n: int, max_tokens: int, seed: int, sampling: Sampling,
    chat: bool, explain: bool,
) -> list[Response]:  # fmt: skip
    """N responses, each the best of some; what that may have cost goes to the notes."""
    from factorlm.cli.terminal import notes
    from factorlm.inference.rewarded import best_responses

    found = best_responses(
        model, prompt, rewards, of=of, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat,
        explain=explain,
    )  # fmt: skip
    mean = sum(sum(one.others) for one in found) / (of * len(found))
    notes.print(
        f"[dim]the best of {of}: reward {sum(one.reward for one in found) / len(found):+.2f}, of all {mean:+.2f}; at "
        f"most {math.log(of) - (of - 1) / of:.2f} nats from the model[/dim]",
        soft_wrap=True,
    )
    return [one.response for one in found]
