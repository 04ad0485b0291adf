"""Labelled texts: reading them, complaining about them, and splitting them."""

import gzip
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.errors import InputError
from factorlm.factors.examples import (
    FEWEST_TEXTS,
    Example,
    fingerprint,
    from_files,
    from_table,
    read_lines,
    split,
)


def test_lines_are_stripped_and_empty_ones_dropped(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeff one é\r\n\n  \t\ntwo\n three".encode())
    assert read_lines(path) == ["one é", "two", "three"]
    packed = tmp_path / "texts.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_lines(str(packed)) == ["one é", "two", "three"]


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no file .*nothing.txt.*{Path.cwd()}"):
        read_lines(tmp_path / "nothing.txt")


def test_a_folder_is_no_text_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="readable text file"):
        read_lines(tmp_path)


def test_other_encodings_name_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes("good\nfine\ncafé\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"byte 0xe9 in line 3 of .*old.txt; convert it"):
        read_lines(path)


def test_what_is_not_gzip_says_so(tmp_path: Path) -> None:
    path = tmp_path / "texts.gz"
    path.write_bytes(b"plain text")
    with pytest.raises(InputError, match="readable text file"):
        read_lines(path)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_gzip_file_says_so(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(b"one\ntwo\n" * 20)
    path = tmp_path / "texts.gz"
    path.write_bytes(packed[:-12] if damage == "cut" else packed[:10] + b"\xff" * 8 + packed[18:])
    with pytest.raises(InputError, match="readable text file"):
        read_lines(path)


def test_two_files_make_examples(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("yes\nsure\n")
    (tmp_path / "n").write_text("no\n")
    found = from_files(tmp_path / "p", tmp_path / "n")
    assert found == [Example("yes", True), Example("sure", True), Example("no", False)]


def test_a_tab_separated_table(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text('"quoted" text\tjoy\nplain\tanger\nother\tfear\n')
    wanted = [Example('"quoted" text', True), Example("plain", False)]
    assert from_table(path, positive="joy", negative="anger") == wanted
    assert from_table(path, positive="joy") == [*wanted, Example("other", False)]
    packed = tmp_path / "table.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert from_table(packed, positive="joy", negative="anger") == wanted


def test_a_row_of_three_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("fine\t1\nworse\t0\t0\n")
    with pytest.raises(InputError, match=r"two columns.*got 3 in line 2"):
        from_table(path)


@pytest.mark.parametrize("text", ["a\rb", "a" * 200_000])
def test_what_csv_cannot_read_is_the_callers_mistake_or_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(f"{text}\t1\n", newline="")
    try:
        assert from_table(path) == [Example(text, True)]
    except InputError as error:
        assert "line 1" in str(error)  # noqa: PT017


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"text": " kind ", "label": 1}\n\n{"text": "rude", "label": 0, "label_name": "insult"}\n')
    assert from_table(path) == [Example("kind", True), Example("rude", False)]
    assert from_table(path, positive="insult") == [Example("kind", False), Example("rude", True)]


@pytest.mark.parametrize("line", ["{", "[1]", '"text"', '{"label": 1}', "3"])
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"text": "a", "label": 1}\n' + line + "\n")
    with pytest.raises(InputError, match="JSON object with text and label is needed in line 2"):
        from_table(path)


def test_a_label_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("a\tjoy\nb\tfear\n")
    with pytest.raises(InputError, match=r"no text in .* has the label 'jo'; labels there: fear, joy"):
        from_table(path, positive="jo")


def numbered(num_positive: int, num_negative: int) -> list[Example]:
    rows = [Example(f"text {n}", True) for n in range(num_positive)]
    return rows + [Example(f"other text {n}", False) for n in range(num_negative)]


@settings(max_examples=40, deadline=None)
@given(st.integers(FEWEST_TEXTS, 60), st.integers(FEWEST_TEXTS, 60), st.randoms(use_true_random=False))
def test_a_split_is_disjoint_and_does_not_depend_on_order(num_positive: int, num_negative: int, chance: Random) -> None:
    examples = numbered(num_positive, num_negative)
    parts = split(examples)
    assert set(parts.train) & set(parts.dev) == set()
    assert set(parts.train) | set(parts.dev) == set(examples)
    assert len(parts.train) + len(parts.dev) == len(examples)
    for label, number in ((True, num_positive), (False, num_negative)):
        held_out = sum(e.is_positive == label for e in parts.dev)
        assert held_out == max(2, int(0.15 * number))
    chance.shuffle(examples)
    assert split(examples) == parts


def test_texts_stay_held_out_when_others_come(tmp_path: Path) -> None:
    """Membership depends on the text, so few texts change sides when a corpus grows."""
    before, after = split(numbered(200, 200)), split(numbered(210, 200))
    moved = set(before.dev) & set(after.train) | set(before.train) & set(after.dev)
    assert len(moved) <= 10


def test_repeated_and_ambiguous_texts_are_dropped() -> None:
    examples = [
        *numbered(20, 20),
        Example("text  3", True),  # the same up to white space
        Example("text 4", True),
        Example("text 5", False),  # both labels: out with it
        Example("other\ttext 6", True),
        Example("", True),
    ]
    parts = split(examples)
    kept = [" ".join(e.text.split()) for e in (*parts.train, *parts.dev)]
    assert len(kept) == len(set(kept)) == 38
    assert not {"text 5", "other text 6", ""} & set(kept)


@pytest.mark.parametrize(("num_positive", "num_negative", "kind"), [(9, 20, "positive"), (20, 9, "negative")])
def test_too_few_texts(num_positive: int, num_negative: int, kind: str) -> None:
    with pytest.raises(InputError, match=f"at least 10 different {kind} texts are needed, got 9"):
        split(numbered(num_positive, num_negative))


def test_the_fingerprint_knows_texts_labels_and_order() -> None:
    examples = numbered(2, 2)
    others = [examples[::-1], examples[:3], [Example(examples[0].text, False), *examples[1:]]]
    assert len({fingerprint(e) for e in [examples, *others]}) == 4
