"""The sentence encoder: the same vectors whatever is asked beside, and remembered without being changed."""

import pytest
import torch

from factorlm.models import sentences
from factorlm.models.sentences import SentenceEncoder, load_sentence_encoder

TEXTS = ["A good day.", "", "The cat sat on the mat, and stayed there for a long while.", "A good day."]


@pytest.mark.model
def test_vectors_do_not_depend_on_what_is_asked_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_sentence_encoder()
    encoder._kept.clear()
    together = encoder.encode(TEXTS)
    assert together.shape == (4, 384)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    assert torch.equal(together[0], together[3])
    encoder._kept.clear()
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)  # padding changes the order of sums
    read: list[int] = []
    assert torch.equal(encoder.encode(TEXTS, lambda done, total: read.append(total)), alone)
    assert read == []  # all remembered
    monkeypatch.setattr(sentences, "KEPT_SENTENCES", 2)
    more = encoder.encode(["One.", "Two.", "Three."])
    assert len(encoder._kept) == 2
    torch.testing.assert_close(encoder.encode(["One."]), more[:1], atol=1e-5, rtol=0)
    assert encoder.encode([]).shape == (0, 384)


def test_there_is_one_encoder() -> None:
    assert load_sentence_encoder() is load_sentence_encoder()
    assert isinstance(load_sentence_encoder(), SentenceEncoder)
