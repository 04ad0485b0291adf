"""Windows of texts."""

from __future__ import annotations

import pytest

from factorlm.diffusion.windows import WindowSettings, sentences_of, windows_of
from factorlm.models import CausalLM

TEXT = (
    'The old ferry leaves the harbour at six in the morning. "Nobody is ever late!" says the captain to his dog.  '
    "It carries bread, letters and three sleepy goats to the island.\nThe goats come back in the evening, fatter than "
    "before. Nobody knows what they do there all day long."
)


def test_sentences() -> None:
    found = sentences_of(TEXT)
    assert len(found) == 5
    assert found[0] == "The old ferry leaves the harbour at six in the morning."
    assert found[1] == '"Nobody is ever late!" says the captain to his dog.'
    assert sentences_of('He said "No." Then he left.') == ['He said "No."', "Then he left."]
    assert sentences_of("all is low. so it parts here!") == ["all is low.", "so it parts here!"]
    assert sentences_of("  One thing ") == ["One thing"]
    assert sentences_of("") == []


@pytest.mark.model
def test_windows_are_parted_between_words_within_the_limits(lm: CausalLM) -> None:
    settings = WindowSettings(per_window=4)
    found = windows_of(lm, [TEXT, "Too short."], settings)
    assert found == windows_of(lm, [TEXT, "Too short."], settings)
    assert found != windows_of(lm, [TEXT], settings.model_copy(update={"seed": 1}))
    assert len(found) >= 8
    flat = " ".join(TEXT.split())
    ends = lm.vocabulary.end_ids[0]
    for window in found:
        assert window.prefix + window.continuation in flat
        assert window.continuation.startswith(" ")
        assert 3 <= len(window.prefix_ids) <= 24
        own = [token for token in window.continuation_ids if token != ends]
        assert 8 <= len(own) <= 26  # words alone may be a token shorter than together
        assert lm.vocabulary.text(own) == window.continuation
        is_last = (window.prefix + window.continuation).endswith("all day long.")
        assert (window.continuation_ids[-1] == ends) == is_last


@pytest.mark.model
def test_long_continuations_end_at_a_sentence(lm: CausalLM) -> None:
    text = "I went to the shop by the sea. It was closed for the whole long day. " + "word " * 60 + "end."
    settings = WindowSettings(prefix=(3, 3), sentences=3)
    [window] = windows_of(lm, [text], settings)
    assert window.prefix == "I went to"
    assert window.continuation == " the shop by the sea. It was closed for the whole long day."
    cut = windows_of(lm, ["I went to " + "word " * 60], settings)[0]
    assert len(cut.continuation_ids) == 24
    assert cut.continuation.split() == ["word"] * 24
