"""Errors in texts: edits by hand, spans that keep their characters, and noise that depends on text and seed alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.errors import InputError, UnknownNameError
from factorlm.text.perturbations import PERTURBATIONS, Edit, Marked, Noise, Span
from factorlm.text.perturbations.typos import neighbours, typos
from factorlm.text.perturbations.words import OTHERS, SHORT

TEXT = "please show me a flight from new york to four corners tomorrow morning"
MARKED = Marked(TEXT, (Span(29, 37, "from"), Span(41, 53, "to"), Span(54, 70, "when")))


def marked(text: str, *spans: tuple[int, int]) -> Marked:
    return Marked(text, tuple(Span(*span, "x") for span in spans))


@pytest.mark.parametrize(
    ("edit", "text", "span"),
    [
        (Edit(0, 2, ""), "cdefg", (0, 3)),  # before
        (Edit(5, 7, "zzz"), "abcdezzz", (2, 5)),  # behind
        (Edit(3, 4, "zz"), "abczzefg", (2, 6)),  # inside
        (Edit(2, 2, "zz"), "abzzcdefg", (4, 7)),  # inserted at the start stays outside
        (Edit(5, 5, "zz"), "abcdezzfg", (2, 5)),  # and at the end
        (Edit(1, 3, "zz"), "azzdefg", (1, 5)),  # over the start belongs to it
        (Edit(4, 6, ""), "abcdg", (2, 4)),  # over the end
    ],
)
def test_spans_follow_an_edit(edit: Edit, text: str, span: tuple[int, int]) -> None:
    found = marked("abcdefg", (2, 5)).edited([edit])
    assert (found.text, found.spans[0][:2]) == (text, span)


def test_a_span_of_which_nothing_is_left_goes() -> None:
    assert marked("ab cd", (3, 5)).edited([Edit(2, 5, "")]) == Marked("ab")


def test_edits_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="do not overlap"):
        marked("abcdef").edited([Edit(0, 3, "x"), Edit(2, 4, "y")])


LETTERS = st.text(alphabet="ab ", min_size=1, max_size=12)


@given(LETTERS, st.data())
@settings(max_examples=200, deadline=None)
def test_untouched_characters_keep_their_span(text: str, data: st.DataObject) -> None:
    """Slow twin: mark each character, edit, and see which marks are inside which span."""
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    edits = [Edit(a, b, "z" * data.draw(st.integers(0, 2))) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    if len({e.start for e in edits}) < len(edits):
        return
    found = marked(text, (start, end)).edited(edits)
    at, shift = {}, 0  # new places of the characters that stay
    changes = {e.start: e for e in edits}
    i = 0
    while i < len(text):
        e = changes.get(i)
        if e is not None:
            shift += len(e.new) - (e.end - e.start)
            if e.end > i:
                i = e.end
                continue
        at[i] = i + shift
        i += 1
    inside = {at[i] for i in at if start <= i < end}
    outside = {at[i] for i in at if not start <= i < end}
    covered = {i for span in found.spans for i in range(span.start, span.end)}
    assert inside <= covered
    assert not outside & covered


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_every_kind_changes_texts_and_is_a_function_of_text_and_seed(kind: str) -> None:
    noise = Noise(((kind, 1.0),))
    found = noise.mark(MARKED, 0)
    assert found.text != TEXT
    assert noise.mark(MARKED, 0) == found
    seeded = {Noise(((kind, 0.5),)).mark(MARKED, seed).text for seed in range(8)}
    assert len(seeded) > 1
    assert Noise(((kind, 0.0),)).mark(MARKED, 0) == MARKED
    assert [span.kind for span in found.spans] == ["from", "to", "when"]


@pytest.mark.parametrize("kind", ["verbose", "append", "simplify", "context_typos"])
def test_what_is_asked_for_stays(kind: str) -> None:
    found = Noise(((kind, 1.0),)).mark(MARKED, 3)
    assert [found.text[s.start : s.end] for s in found.spans] == ["new york", "four corners", "tomorrow morning"]


def test_typos_inside_leave_the_rest() -> None:
    found = Noise.of("entity_typos=1").mark(MARKED, 0)
    assert found.text.startswith("please show me a flight from ")
    assert [found.text[s.start : s.end] for s in found.spans] != ["new york", "four corners", "tomorrow morning"]


def test_the_rate_is_the_share_of_words() -> None:
    """1,500 words at rate 0.3: a share outside 0.25 to 0.35 comes less than once in 20,000 runs."""
    text = " ".join(["words", "station", "marble"] * 500)
    edits = typos(Marked(text), 0.3, np.random.default_rng(0))
    assert 0.25 < len(edits) / 1500 < 0.35
    changed = Marked(text).edited(edits).text.split()
    assert sum(a != b for a, b in zip(changed, text.split(), strict=True)) == len(edits)


def test_a_mixture_is_its_parts_in_turn() -> None:
    both = Noise.of("entity_typos + append=1")
    first = Noise.of("entity_typos").mark(MARKED, 4)
    assert both.mark(MARKED, 4) == Noise.of("append").mark(first, 4)
    assert str(both) == "entity_typos+append"
    assert Noise.of(str(Noise.of("typos=0.05+speech"))) == Noise.of("typos=0.05+speech")


def test_bad_noise_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="typos"):
        Noise.of("typo=0.1")
    for text in ("typos=2", "typos=x", "", "typos+"):
        with pytest.raises(InputError):
            Noise.of(text)


def test_tables_change_words() -> None:
    assert all(word not in others for word, others in OTHERS.items())
    assert all(word != short for word, short in SHORT.items())
    assert neighbours("a") == "s"
    assert set(neighbours("G")) == {"F", "H"}
    assert neighbours("1") == ""
