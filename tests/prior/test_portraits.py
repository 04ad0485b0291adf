"""What is shown of components, against the definition."""

from __future__ import annotations

import pytest
import torch

from factorlm.algebra import pad_right
from factorlm.models import CausalLM
from factorlm.models.progress import quiet
from factorlm.prior import fitting
from factorlm.prior.batches import score_rows
from factorlm.prior.incontext import InContext
from factorlm.prior.learning import Learning
from factorlm.prior.mixture import Bayes
from factorlm.prior.portraits import NUM_TOKENS, portraits
from factorlm.prior.uncertainty import pairwise_divergence

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()


def text_of(lm: CausalLM, row: list[int]) -> str:
    return b"".join(lm.vocabulary.token_bytes[token] for token in row).decode("utf-8", "replace")


def test_portraits_show_what_makes_components_differ(tiny_lm: CausalLM, in_context: InContext) -> None:
    rows = [tiny_lm.encode_text(text) for text in ("the good dog", "a bad zoo", "xyz", "in the end.", "good")]
    mixture = Bayes(in_context, WEIGHTS)
    log_lik_NK = score_rows(in_context, rows, [0])
    soft_KMD = tiny_lm.embed(torch.tensor([[7, 8], [9, 10], [44, 45]])) * torch.tensor([1.0, 2.0])[:, None]
    found, divergence_KK = portraits(mixture, tiny_lm, rows, log_lik_NK, soft_KMD, 0, quiet)
    per_token_NK = log_lik_NK / torch.tensor([len(row) for row in rows])[:, None]
    text_BT, prefix_BT = pad_right(rows), torch.zeros(5, 1, dtype=torch.long)
    real_BT = text_BT != -1
    liked_KV = torch.zeros(3, tiny_lm.vocabulary.size, dtype=torch.float64)
    for (_, log_prob_KBV), real_B in zip(mixture.beliefs(prefix_BT, text_BT), real_BT.unbind(1), strict=True):
        log_prob_KBV = log_prob_KBV.double()[:, real_B]
        log_mixed_BV = torch.logsumexp(WEIGHTS[:, None, None] + log_prob_KBV, 0)
        liked_KV += (log_prob_KBV.exp() * (log_prob_KBV - log_mixed_BV)).sum(1)
    for k, portrait in enumerate(found):
        best = per_token_NK.log_softmax(1)[:, k].argsort(descending=True)[:2].tolist()
        assert portrait.typical == tuple(text_of(tiny_lm, rows[n]) for n in best)
        assert len(portrait.own_words) == 2
        want = [text_of(tiny_lm, [v]) for v in liked_KV[k].topk(NUM_TOKENS).indices.tolist()]
        assert list(portrait.tokens) == want
        assert portrait.nearest == tuple(text_of(tiny_lm, [v]) for v in ([7, 8], [9, 10], [44, 45])[k])
    want_KK = pairwise_divergence(mixture, prefix_BT, text_BT)
    torch.testing.assert_close(divergence_KK, want_KK, atol=1e-4, rtol=0)  # float32, in another order


def test_the_same_seed_shows_the_same(tiny_lm: CausalLM, in_context: InContext) -> None:
    rows = [tiny_lm.encode_text(text) for text in ("the good dog", "a bad zoo", "xyz")]
    mixture, log_lik_NK = Bayes(in_context, WEIGHTS), score_rows(in_context, rows, [0])
    one, other, another = (portraits(mixture, tiny_lm, rows, log_lik_NK, None, seed, quiet)[0] for seed in (0, 0, 1))
    assert one == other
    assert [portrait.own_words for portrait in one] != [portrait.own_words for portrait in another]
    assert [portrait.typical for portrait in one] == [portrait.typical for portrait in another]
    assert {portrait.nearest for portrait in one} == {()}


def test_portraits_are_of_the_whole_corpus(tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a corpus with one source after the other, both are shown, though only some texts are looked at."""
    monkeypatch.setattr(fitting, "PICTURED", 12)
    texts = ["the good food"] * 20 + ["a bad tree in a cat"] * 20
    found = fitting.fit(tiny_lm, texts, fitting.Fitting(components=2, learning=Learning(rounds=1)))
    shown = {text for card in found.manifest.components for text in card.portrait.typical}
    assert shown == {"the good food", "a bad tree in a cat"}
