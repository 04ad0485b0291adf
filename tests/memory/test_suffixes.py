"""Suffix arrays against sorting, and in pieces against at once."""

from pathlib import Path

import numpy as np
import pytest

from factorlm.memory import suffixes
from factorlm.memory.ranges import place_at
from factorlm.memory.suffixes import open_table, place_bytes, separator_of, write_table


def texts(width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(width)
    high = 300 if width > 1 else 5  # above 255, the order of bytes is not that of numbers
    plain = rng.integers(0, high, 2500)
    repeated = np.tile(rng.integers(0, high, 900), 3)  # every piece ends in what stands elsewhere, too
    flat = np.zeros(2100, np.int64)
    for text in (plain, repeated):
        text[rng.integers(0, len(text), 6)] = separator_of(width)
    return [text.astype(f"<u{width}") for text in (plain, repeated, flat)]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_tables_are_those_of_sorting_bytes(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in texts(width):
        raw = text.tobytes()
        (tmp_path / "text").write_bytes(raw)
        write_table(tmp_path / "text", width, tmp_path / "whole", 1 << 30, lambda *_: None)
        table = open_table(tmp_path / "whole", place_bytes(len(raw)))
        want = sorted(range(len(text)), key=lambda n: raw[n * width :])
        assert [place_at(table, n, width) for n in range(len(table))] == want
        monkeypatch.setitem(suffixes.BYTES_PER_TOKEN, width, 1)  # a thousand tokens at once
        write_table(tmp_path / "text", width, tmp_path / "pieces", 1, lambda *_: None)
        monkeypatch.undo()
        assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
        assert not list(tmp_path.glob("*.parts"))


def test_without_the_repeated_tails_pieces_would_be_out_of_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tails matter: sorted as if the text ended with a piece, these suffixes stand elsewhere."""
    text = texts(2)[1]
    (tmp_path / "text").write_bytes(text.tobytes())
    write_table(tmp_path / "text", 2, tmp_path / "whole", 1 << 30, lambda *_: None)
    monkeypatch.setitem(suffixes.BYTES_PER_TOKEN, 2, 1)
    monkeypatch.setattr(suffixes, "repeated_tail", lambda *_: 0)
    write_table(tmp_path / "text", 2, tmp_path / "pieces", 1, lambda *_: None)
    assert (tmp_path / "pieces").read_bytes() != (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 2])
def test_tiny_texts_have_tables(size: int, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(np.zeros(size, "<u2").tobytes())
    write_table(tmp_path / "text", 2, tmp_path / "table", 1 << 30, lambda *_: None)
    table = open_table(tmp_path / "table", place_bytes(2 * size))
    assert [int(place_at(table, n, 2)) for n in range(size)] == [*range(size)][::-1]


@pytest.mark.parametrize(("size", "want"), [(0, 1), (2, 1), (256, 1), (257, 2), (1 << 16, 2), ((1 << 16) + 1, 3)])
def test_places_have_as_many_bytes_as_in_the_public_layout(size: int, want: int) -> None:
    assert place_bytes(size) == want
