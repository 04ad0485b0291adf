"""Responses chosen by rewards of whole responses: the best of n, and what a composition's rewards say of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factorlm.algebra import Factor, Power
from factorlm.errors import InputError
from factorlm.factors.reward import Reward, UnboundReward
from factorlm.factors.sequence import Tokens
from factorlm.inference.draw import Sampling
from factorlm.inference.model import Model
from factorlm.inference.results import Response
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

PLAIN = Sampling()


@dataclass(frozen=True, eq=False)
class Rewards:
    """A weighted sum of rewards over one encoder: r = sum_j weight_j r_j.

    Attributes:
        rewards: of whole responses.
        weights: of each.
    """

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    @staticmethod
    def of_factors(factors: Sequence[Factor], weights: Sequence[float], lm: CausalLM) -> Rewards:
        """From factors of a store, given the model.

        Raises:
            InputError: for a factor that is no reward.
        """
        found = []
        for factor in factors:
            if not isinstance(factor, UnboundReward):
                name = getattr(factor, "name", type(factor).__name__)
                raise InputError(
                    f"a reward of whole responses is needed, got the factor {name!r}, which works token by token; use "
                    f"--factor {name}, or train one with factorlm factor train --as reward"
                )
            found.append(factor.bind(lm))
        return Rewards(tuple(found), tuple(weights))

    def __call__(self, prefixes: Sequence[Tokens], texts: Sequence[Tokens], report: Report = quiet) -> list[float]:
        """The sum, in nats at weight one, of responses in tokens behind prompts in tokens."""
        each = [reward.of(prefixes, texts, report) for reward in self.rewards]
        return [sum(w * r for w, r in zip(self.weights, values, strict=True)) for values in zip(*each, strict=True)]

    def factors(self, beta: float) -> list[Factor]:
        """The factors exp(weight_j r_j / beta), whose product with a model is the best at that price of divergence."""
        if not beta > 0:
            raise InputError(f"a positive temperature of rewards is needed, got {beta:g}; 0.5 is usual")
        return [Power(r, weight / beta) for r, weight in zip(self.rewards, self.weights, strict=True)]


@dataclass(frozen=True, eq=False)
class Best:
    """The best of some responses.

    Attributes:
        response: with the highest reward.
        reward: of it.
        others: rewards of those that it was chosen from, itself among them, as they were drawn.
    """

    response: Response
    reward: float
    others: tuple[float, ...]


def best_responses(
    model: Model,
    prompt: str,
    rewards: Rewards,
    *,
    of: int = 16,
    n: int = 1,
    max_tokens: int = 64,
    seed: int = 0,
    sampling: Sampling = PLAIN,
    chat: bool = False,
    explain: bool = False,
) -> list[Best]:
    """N responses, each the best of its own `of`; see `search.best_of` for the law.

    Args:
        model: what writes.
        prompt: what is continued.
        rewards: more is better.
        of: responses to choose each from.
        n: responses wanted.
        max_tokens: of a response.
        seed: of all randomness.
        sampling: how tokens are drawn.
        chat: whether the prompt is a message to be answered.
        explain: whether to find what each factor did to each token.
    """
    written = model.generate(
        prompt, n=n * of, max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat, explain=explain
    )
    values = rewards([r.prompt_ids for r in written], [r.token_ids for r in written])
    found = []
    for start in range(0, n * of, of):
        others = tuple(values[start : start + of])
        place = max(range(of), key=lambda i: others[i])
        found.append(Best(written[start + place], others[place], others))
    return found
