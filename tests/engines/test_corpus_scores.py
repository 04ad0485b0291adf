"""Scores of documents: those that fit are scored as elsewhere, longer ones token by token in windows."""

from collections.abc import Callable

import pytest
import torch

import factorlm as fl
from factorlm.engines.corpus_scores import Reach, reach_of, score_texts
from factorlm.errors import InputError
from factorlm.evaluation.perplexity import learns_from_text, windows
from factorlm.factors import bind
from factorlm.factors.head import Head
from factorlm.models import CausalLM

TEXTS = ["the good tooth", "a", "bad " * 40, "é in the bad good", "good " * 200]


@pytest.fixture
def steered(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> fl.Model:
    return fl.Model(tiny_lm, tiny_lm) * make_head(2, 1) ** 0.7 * make_head(0, 2) ** 0.0


def test_documents_that_fit_are_scored_as_elsewhere(steered: fl.Model) -> None:
    reach = reach_of(steered, None, None)
    assert reach == Reach(256, 128)
    found = score_texts(steered, TEXTS[:4], reach)
    for (score, num_windows), want in zip(found, steered.score(TEXTS[:4]), strict=True):
        assert (score.text, score.num_tokens, score.num_bytes) == (want.text, want.num_tokens, want.num_bytes)
        assert num_windows == 1
        assert score.log_prob == pytest.approx(want.log_prob, abs=1e-3)  # other rows beside it: rounding of float32
        assert score.base_log_prob == pytest.approx(want.base_log_prob, abs=1e-3)
        assert score.log_ratios == pytest.approx(want.log_ratios, abs=1e-3)
        assert abs(score.log_prob - score.base_log_prob) > 0.05


def test_a_long_document_is_the_sum_of_its_windows(steered: fl.Model) -> None:
    lm, reach = steered.lm, Reach(24, 10)
    [(score, num_windows)] = score_texts(steered, [TEXTS[2]], reach)
    row = [*lm.start_ids, *lm.encode_text(TEXTS[2])]
    plans = windows(len(row), 24, 10)
    assert num_windows == len(plans) == 3
    log_prob, base, ratios = 0.0, 0.0, torch.zeros(2, dtype=torch.float64)
    for plan in plans:  # one after the other, without neighbours
        reading = fl.inference.read(
            steered.factor,
            torch.tensor([row[plan.first : plan.start]]),
            torch.tensor([row[plan.start : plan.end]]),
            with_ratios=True,
        )
        log_prob += float(reading.log_prob_BT.double().sum())
        base += float(reading.base_log_prob_BT.double().sum())
        ratios += reading.log_ratio_BTK.double().sum((0, 1))
    assert score.log_prob == pytest.approx(log_prob, abs=1e-3)
    assert score.base_log_prob == pytest.approx(base, abs=1e-3)
    assert list(score.log_ratios.values()) == pytest.approx(ratios.tolist(), abs=1e-3)
    assert score.num_tokens == len(row) - 1


def test_a_document_longer_than_the_context_is_not_refused(steered: fl.Model) -> None:
    text = "the bad good tooth. " * 100
    with pytest.raises(InputError, match="at most 256"):
        steered.score([text])
    [(score, num_windows)] = score_texts(steered, [text], reach_of(steered, None, None))
    assert num_windows > 2
    assert score.num_tokens > 256
    assert -12 * score.num_tokens < score.log_prob < -0.1 * score.num_tokens


def test_what_is_read_as_text_is_counted_once(tiny_lm: CausalLM) -> None:
    """A lexicon must see the words before the counted ones, which are then part of the text that is read."""
    plain, reach = fl.Model(tiny_lm, tiny_lm), Reach(24, 10)
    seen = plain * bind(fl.lexicon({"the good": 2.0, "bad": -1.0}), tiny_lm) ** 0.0
    assert learns_from_text(seen.factor)
    for (score, _), (want, _) in zip(score_texts(seen, TEXTS, reach), score_texts(plain, TEXTS, reach), strict=True):
        assert score.log_prob == pytest.approx(want.log_prob, abs=1e-3)
        assert score.base_log_prob == pytest.approx(want.log_prob, abs=1e-3)


def test_windows_that_a_model_cannot_read_are_refused(steered: fl.Model) -> None:
    for window, stride in ((257, None), (0, None), (20, 21), (20, 0)):
        with pytest.raises(InputError):
            reach_of(steered, window, stride)
