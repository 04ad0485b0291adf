"""The best of some texts by a reward, and the answer that most texts give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from factorlm.errors import InputError
from factorlm.inference.draw import Sampling
from factorlm.inference.model import Model
from factorlm.inference.results import Response
from factorlm.inference.search.counting import Spent
from factorlm.inference.search.found import Found, Vote

Reward = Callable[[list[str]], Sequence[float]]  # of texts without their prompt; more is better


def best_of(
    model: Model,
    prompt: str,
    reward: Reward,
    *,
    n: int = 8,
    max_tokens: int = 64,
    seed: int = 0,
    sampling: Sampling | None = None,
    chat: bool = False,
) -> list[Found]:
    """N texts, best first.

    With F the distribution function of the reward, F(below) that of all smaller rewards, and P(r) the probability of
    the reward itself, the first has the law p(x) (F(r)^n - F(below)^n) / P(r).
    Where no two texts share a reward and each has little probability, this is p(x) n F^(n-1). It moves the model by at
    most log n - (n - 1) / n nats for a text. Source: Stiennon et al. (2020); the law and the bound, Beirami et al.
    (2024), arXiv:2401.01879.

    Args:
        model: what writes.
        prompt: what is continued.
        reward: of texts, more is better.
        n: texts to choose from.
        max_tokens: of a text.
        seed: of all randomness.
        sampling: how tokens are drawn.
        chat: whether the prompt is a message to be answered.

    Raises:
        InputError: if there are too few texts, or rewards that are no numbers.
    """
    written = model.generate(prompt, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling or Sampling(), chat=chat)
    values = [float(value) for value in reward([response.text for response in written])]
    if len(values) != n or any(value != value for value in values):
        raise InputError(f"a reward gives a number for each of {n} texts, got {values}")
    spent = _spent(written, num_rewards=n)
    found = [
        Found(r.token_ids, r.text, value, r.log_prob, r.finish_reason, spent)
        for r, value in zip(written, values, strict=True)
    ]
    return sorted(found, key=lambda one: -one.value)


def vote(
    model: Model,
    prompt: str,
    answer_of: Callable[[str], str | None],
    *,
    n: int = 16,
    max_tokens: int = 64,
    seed: int = 0,
    sampling: Sampling | None = None,
    chat: bool = False,
) -> Vote:
    """Self-consistency: the answer that most of n texts give, an estimate of the most probable one.

    Of answers with equal shares the first one given wins. Source: Wang et al. (2023), arXiv:2203.11171.

    Args:
        model: what writes.
        prompt: the question.
        answer_of: the answer in a text; None if it has none.
        n: texts to ask.
        max_tokens: of a text.
        seed: of all randomness.
        sampling: how tokens are drawn.
        chat: whether the prompt is a message to be answered.
    """
    written = model.generate(prompt, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling or Sampling(), chat=chat)
    answers = [answer for response in written if (answer := answer_of(response.text)) is not None]
    shares = {answer: count / n for answer, count in Counter(answers).most_common()}
    return Vote(next(iter(shares), None), shares, _spent(written))


def _spent(written: Sequence[Response], num_rewards: int = 0) -> Spent:
    """One reading of the prompt, which all texts share, and one of each token that another followed."""
    steps = [max(0, len(response.token_ids) - 1) for response in written]
    return Spent(len(written[0].prompt_ids) + sum(steps), 1 + max(steps), num_rewards)
