"""Slots: from tags to stretches and back, counts by hand and against every pairing, and conditions of a test."""

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.robustness import scoring
from factorlm.evaluation.robustness.outcomes import Outcomes
from factorlm.evaluation.robustness.tagged import augmented
from factorlm.evaluation.robustness.utterances import from_tags, load_parts, snapped, to_tags, with_errors
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.text.perturbations import Marked, Noise, Span

WORDS = ["fly", "from", "new", "york", "to", "boston", "boston", "now"]
TAGS = ["O", "O", "B-from", "I-from", "O", "B-to", "B-to", "I-when"]


def test_tags_become_stretches_and_tags_again() -> None:
    found = from_tags(WORDS, TAGS)
    assert [(found.text[s.start : s.end], s.kind) for s in found.spans] == [
        ("new york", "from"), ("boston", "to"), ("boston", "to"), ("now", "when"),
    ]  # fmt: skip
    assert to_tags(found) == (WORDS, [*TAGS[:-1], "B-when"])  # an I- with nothing before it begins a slot
    with pytest.raises(InputError, match="8 words and 7 tags"):
        from_tags(WORDS, TAGS[:-1])


def test_tags_are_recomputed_from_characters() -> None:
    together = Marked("from newyork toboston", (Span(5, 12, "from"), Span(15, 21, "to")))
    assert to_tags(together) == (["from", "newyork", "toboston"], ["O", "B-from", "B-to"])
    both = Marked("newyorkboston", (Span(0, 7, "from"), Span(7, 13, "to")))
    assert to_tags(both)[1] == ["B-from"]  # the larger share has it
    assert snapped(together).spans[1] == Span(13, 21, "to")


@pytest.mark.parametrize("condition", ["typos", "speech=1", "verbose", "append+context_typos+entity_typos", "simplify"])
def test_errors_keep_the_slots(condition: str) -> None:
    clean = from_tags(WORDS, TAGS)
    [noisy] = with_errors([clean], condition, 5)
    assert [s.kind for s in noisy.spans] == [s.kind for s in clean.spans]
    assert to_tags(noisy)[0] == noisy.text.split(" ")
    assert with_errors([clean], condition, 5) == [noisy]


def test_copies_for_training_are_many_and_the_same_again() -> None:
    clean = [from_tags(WORDS, TAGS)] * 40
    copies = augmented(clean, 0)
    assert len({c.text for c in copies}) > 20
    assert copies == augmented(clean, 0)
    assert copies != augmented(clean, 1)


SPANS = st.lists(st.integers(0, 12), min_size=0, max_size=6, unique=True).map(
    lambda cuts: [Span(a, b, "xy"[(a + b) % 2]) for a, b in zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False)]
)


def most_pairs(found: Sequence[Span], meant: Sequence[Span]) -> int:
    """Slow twin: the largest number of pairs over every assignment."""
    best = 0
    for order in itertools.permutations(range(len(meant))):
        pairs = zip(found, (meant[i] for i in order), strict=False)
        best = max(best, sum(f.kind == m.kind and f.start < m.end and m.start < f.end for f, m in pairs))
    for order in itertools.permutations(range(len(found))):
        pairs = zip((found[i] for i in order), meant, strict=False)
        best = max(best, sum(f.kind == m.kind and f.start < m.end and m.start < f.end for f, m in pairs))
    return best


@given(SPANS, SPANS)
@settings(max_examples=150, deadline=None)
def test_relaxed_hits_are_the_most_that_can_be_paired(found: list[Span], meant: list[Span]) -> None:
    assert scoring.counts(found, meant, is_relaxed=True) == (most_pairs(found, meant), len(found), len(meant))
    assert scoring.counts(found, meant)[0] == sum(f in meant for f in found)


def test_f1_by_hand() -> None:
    meant = [from_tags(WORDS, TAGS), from_tags(["a"], ["O"])]
    found = [[meant[0].spans[0], Span(12, 15, "from")], [Span(0, 1, "from")]]
    counts_UC = scoring.table(found, meant)
    assert counts_UC.tolist() == [[1, 2, 4], [0, 1, 0]]
    assert scoring.f1_interval(counts_UC, 0).value == pytest.approx(2 * 1 / (3 + 4))
    assert scoring.f1(np.zeros((1, 3))) == [0.0]


def outcomes(f1s: dict[str, float]) -> Outcomes:
    """Hundred utterances of ten slots each with this share found."""
    row = Outcomes("way")
    for condition, share in f1s.items():
        row.exact[condition] = row.relaxed[condition] = np.tile([10 * share, 10, 10], (100, 1))
    return row


def test_measures_of_a_way() -> None:
    shares = {"clean": 0.9, "typos": 0.5, "speech": 0.6, "append": 0.8, "context_typos": 0.7, "entity_typos": 0.4,
              "context_typos+append": 0.3}  # fmt: skip
    found = outcomes(shares).measures("s", 0)
    assert found["F1/s/way"]["typos"].value == pytest.approx(0.5)
    assert found["F1/s/way"]["mean of noisy"].value == pytest.approx(np.mean(list(shares.values())[1:]))
    assert found["retention/s/way"]["typos"].value == pytest.approx(5 / 9)
    assert found["next worst less typos/s/way"]["F1"].value == pytest.approx(0.6 - 0.5)
    assert set(found["worst part less mixture/s/way"]) == {"context_typos+append"}
    assert found["worst part less mixture/s/way"]["context_typos+append"].value == pytest.approx(0.7 - 0.3)
    assert outcomes(shares).worst() == "context_typos+append"


def test_gains_are_paired() -> None:
    """Ways that differ on every utterance by the same have an interval without width, whatever utterances are drawn."""
    easy = np.random.default_rng(0).integers(1, 9, 50)
    low = np.stack([easy, np.full(50, 10), np.full(50, 10)], 1).astype(float)
    high = low + np.array([1, 0, 0])
    gain = scoring.mean_gain([high, high], [low, low], 0)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    assert scoring.difference(high, low, 0).value == pytest.approx(0.1)


def test_noise_of_conditions_is_known() -> None:
    from factorlm.evaluation.robustness.outcomes import CONDITIONS

    assert all(str(Noise.of(condition)) == condition for condition in CONDITIONS[1:])


def test_what_is_tested_is_not_learned(tmp_path: Path) -> None:
    for part in ("train", "test"):
        rows = [{"tokens": ["say", f"{n}"], "slots": ["O", "B-x"]} for n in range(0 if part == "train" else 6, 10)]
        path = tmp_path / f"toy/{part}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    bench = Workbench((), DataFolder(tmp_path), Cache(None), lambda stage, done, total: None)
    train, test = load_parts(bench, "toy", 10, 4)
    assert {u.text for u in train} == {f"say {n}" for n in range(6)}
    assert len(test) == 4
