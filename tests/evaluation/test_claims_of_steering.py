"""Claims about steering: ten factors at once, and learning from the model's own texts; the rules decide as written."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from factorlm.evaluation.claims import run_claim, steering
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.responses import Sample
from factorlm.evaluation.workbench import Cache
from factorlm.inference.expression import Composed

Compose = Callable[[str], Composed]
Data = Callable[[str, list[dict[str, Any]]], DataFolder]


def columns(nats: float, share: float, *, seed: int) -> Any:
    """Nats, tokens and share of each of 60 prompts, about these."""
    generator = np.random.default_rng(seed)
    return np.stack(
        [20 * nats + generator.normal(0, 1, 60), np.full(60, 20.0), (generator.random(60) < share) * 1.0], 1
    )


@pytest.mark.parametrize(("nats", "verdict"), [(3.2, "holds"), (3.4, "not shown"), (3.6, "does not hold here")])
def test_ten_factors_by_perplexity(
    nats: float, verdict: str, tiny: Compose, put: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base has 3 nats; half as much perplexity again is 3.41."""
    asked: list[dict[str, float]] = []

    def respond(*given: Any, strengths: dict[str, float], **rest: Any) -> list[list[Sample]]:
        asked.append(strengths)
        log_prob = -nats if strengths else -3.0
        return [[Sample("", (1,), log_prob, log_prob, "length")]]

    def told(bench: Any, samples: list[list[Sample]]) -> Any:
        return columns(-samples[0][0].log_prob, 0.5, seed=int(samples[0][0].log_prob != -3.0))

    monkeypatch.setattr(steering, "respond", respond)
    monkeypatch.setattr(steering, "_columns", told)
    data = put("set/prompts", [{"prompt": f"prompt {i}"} for i in range(60)])
    settings = steering.TenSettings(part="set/prompts", prompts=60)
    record = run_claim("ten-factors-stay-fluent", settings=settings, data=data, compose=tiny, cache=Cache(None))
    assert record.outcome.verdict == verdict
    assert asked == [{}, dict.fromkeys(settings.factors, 0.05)]
    assert len(settings.factors) == 10


@pytest.mark.parametrize(
    ("nats", "share", "verdict"),
    [
        (2.8, 0.6, "holds"),
        (3.0, 0.6, "not shown"),
        (3.2, 0.6, "does not hold here"),
        (2.8, 0.1, "does not hold here"),
    ],
)
def test_own_texts_by_perplexity_and_share(
    nats: float, share: float, verdict: str, tiny: Compose, put: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"labelled texts": columns(3.0, 0.6, seed=0), "own texts too": columns(nats, share, seed=1)}
    monkeypatch.setattr(steering, "respond", lambda *given, stage, **rest: stage)
    monkeypatch.setattr(steering, "_columns", lambda bench, samples: told[samples])
    rows = [{"text": f"{word} the {n} river", "label": label} for n in range(40) for label, word in enumerate("ab")]
    put("review_sentiment_transfer/yelp_dev", rows)
    put("review_sentiment_transfer/amazon_dev", rows)
    data = put("set/prompts", [{"prompt": f"prompt {i}"} for i in range(60)])
    settings = steering.OwnTextsSettings(part="set/prompts", prompts=60, own_texts=8)
    record = run_claim("own-texts-cost-less", settings=settings, data=data, compose=tiny, cache=Cache(None))
    assert record.outcome.verdict == verdict
    assert set(record.outcome.numbers) == {"0.2", "0.4"}
