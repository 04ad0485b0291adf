"""Rewards of components, for `factorlm prior tilt`: from a factor, a judge, a file, or people's thumbs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.prior import Prior


def from_factor(prior: Prior, option: str, prompts: Sequence[str], n: int, max_tokens: int, seed: int) -> list[float]:
    """Weight times the mean evidence, in nats, that a factor finds in texts of each component."""
    from factorlm.cli import faders
    from factorlm.inference import Model

    [fader] = faders.parse([option])
    if fader.exponent is not None:
        raise InputError(f"a weight is needed in --factor {option}, got an exponent; write {fader.name}=1")
    weight = 1.0 if fader.strength is None else fader.strength
    judging = faders.compose(Model(prior.lm, prior.lm), [faders.Fader(fader.name, None, 0.0)])

    def evidence(texts: list[str]) -> list[float]:
        return [next(iter(score.log_ratios.values())) for score in judging.score(texts)]

    return [weight * reward for reward in _mean(prior, prompts, n, max_tokens, seed, evidence)]


def from_judge(prior: Prior, option: str, prompts: Sequence[str], n: int, max_tokens: int, seed: int) -> list[float]:
    """Mean probability of a label in the eyes of an independent judge, for texts of each component."""
    from factorlm.evaluation.judges import load_judge

    name, _, label = option.partition("=")
    judge = load_judge(name)
    column = judge.index(label or judge.labels[-1])

    def probability(texts: list[str]) -> list[float]:
        return [0.0 if math.isnan(p) else float(p) for p in judge.probabilities(texts)[:, column]]

    return _mean(prior, prompts, n, max_tokens, seed, probability)


def from_file(path: Path, names: Sequence[str]) -> list[float]:
    """Rewards written down as one JSON object, component to number."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"a JSON file of component: reward is needed, got {path}: {reason}") from None
    is_right = isinstance(found, dict) and set(found) == set(names)
    if not is_right or not all(type(value) in (int, float) and math.isfinite(value) for value in found.values()):
        raise InputError(f"{path} must give a number for each of {', '.join(names)}, and for nothing else")
    return [float(found[name]) for name in names]


def from_thumbs(path: Path, names: Sequence[str], seed: int | None) -> list[float]:
    """What people think of each component, in [0, 1]: see `prior.thumbs`."""
    from factorlm.prior.thumbs import ratings, read_thumbs

    return ratings(read_thumbs(path, names), names, seed=seed)


def _mean(
    prior: Prior,
    prompts: Sequence[str],
    n: int,
    max_tokens: int,
    seed: int,
    judge: Callable[[list[str]], list[float]],
) -> list[float]:
    """Mean judgement of n texts of each component that has weight; zero for the others, which no reward brings back."""
    import torch

    from factorlm.cli.terminal import progress
    from factorlm.prior.drawing import write

    lm = prior.lm
    prefixes = [[*lm.start_ids, *lm.encode_text(text)] for text in prompts] or [list(lm.start_ids)]
    generator = torch.Generator().manual_seed(seed)
    alive = prior.mixture.alive.tolist()
    found = [0.0] * prior.num_components
    with progress() as report:
        for done, k in enumerate(alive):
            report("components judged", done, len(alive))
            asked = [prefixes[i % len(prefixes)] for i in range(n)]
            rows = write(prior.ensemble.component(k), asked, max_tokens, generator)
            texts = [text for row in rows if (text := lm.vocabulary.text(row)).strip()]
            if not texts:
                raise InputError(f"component {prior.names[k]} writes nothing that could be judged; give a --prompt")
            found[k] = sum(judge(texts)) / len(texts)
        report("components judged", len(alive), len(alive))
    return found
