"""Building suffix arrays: in memory where the text fits, else piece by piece and merged on disk.

Pieces are sorted as if the text ended with them. That orders wrongly only suffixes whose whole rest, to the end of the
piece, stands elsewhere in it, too: these are the last few tokens, and they are sorted anew by the whole text. So the
merged table is exactly that of the whole text, whatever the pieces.
"""

# Axes: K sorted lists, N tokens or suffixes, P bytes of a place, R places written at once.

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydivsufsort
from numpy.typing import NDArray

from factorlm.memory.merging import keep_aligned, merge_some, order_heap, order_of
from factorlm.memory.ranges import first_ranges, longest
from factorlm.models.progress import Report

AT_ONCE = 1 << 20  # places written at once
BYTES_PER_TOKEN = {1: 12, 2: 24, 4: 40}  # of memory that sorting takes, at most, by bytes of a token

Tokens = NDArray[Any]
Places = NDArray[np.uint8]


def separator_of(width: int) -> int:
    """What stands before each document: a token whose bits are all set."""
    return (1 << (8 * width)) - 1


def place_bytes(num_bytes: int) -> int:
    """Bytes P of a place in a text of this size, as in the public layout."""
    return max(1, -(-(max(num_bytes, 2) - 1).bit_length() // 8))


def sorted_places(text_N: Tokens) -> NDArray[np.signedinteger[Any]]:
    """Places of all suffixes of a text in the order of their bytes, in tokens."""
    width = text_N.dtype.itemsize
    if width == 4:  # few of all possible tokens occur: their ranks are shorter
        swapped_N = text_N.byteswap()
        known, rank_N = np.unique(swapped_N, return_inverse=True)
        if len(known) <= 1 << 16:
            text_N, width = rank_N.astype(">u2"), 2
        else:
            text_N = rank_N.astype(">u4")
    places = pydivsufsort.divsufsort(np.array(text_N).view(np.uint8))  # a copy: it takes no array that is read-only
    if width > 1:
        places = places[: keep_aligned(places, width)]
    return places


def write_table(text_path: Path, width: int, table_path: Path, memory_bytes: int, report: Report) -> None:
    """Write the suffix array of a text, with no more memory than asked for (and that of at least 1,000 tokens).

    Args:
        text_path: tokens, little-endian.
        width: bytes of a token.
        table_path: what to write.
        memory_bytes: most memory for sorting.
        report: told of progress.
    """
    text_N = open_text(text_path, width)
    most = max(1000, memory_bytes // BYTES_PER_TOKEN[width], 1)
    most = min(most, ((1 << 31) - 1) // width)  # beyond, sorting takes twice the memory
    num_bytes = place_bytes(text_N.nbytes)
    cuts = [*range(0, len(text_N), most), len(text_N)] if len(text_N) else [0]
    if len(cuts) <= 2:
        report("sorting suffixes", 0, len(text_N))
        with table_path.open("wb") as table:
            if len(text_N):
                write_places(table, sorted_places(np.asarray(text_N)), 0, width, num_bytes)
        report("sorting suffixes", len(text_N), len(text_N))
        return
    parts = table_path.with_name(f"{table_path.name}.parts")
    try:
        with parts.open("wb") as file:
            bounds = [0]
            tails: list[Any] = []
            for begin, end in itertools.pairwise(cuts):
                report("sorting suffixes", begin, len(text_N))
                piece_N = np.array(text_N[begin:end])
                places = sorted_places(piece_N)
                first_behind = len(piece_N)
                if end < len(text_N):
                    first_behind -= repeated_tail(piece_N, places, width)
                    places = places[places < first_behind]
                tails.append(np.arange(begin + first_behind, end))
                write_places(file, places, begin, width, num_bytes)
                bounds.append(bounds[-1] + len(places))
            report("sorting suffixes", len(text_N), len(text_N))
            for tail in tails:
                bounds.append(bounds[-1] + append_tail(file, text_N, tail, width, num_bytes))
        merge_lists(text_N, parts, bounds, table_path, width, num_bytes, report)
    finally:
        parts.unlink(missing_ok=True)


def repeated_tail(piece_N: Tokens, places: NDArray[Any], width: int) -> int:
    """How many of the last tokens of a piece stand elsewhere in it, too, one behind the other."""
    num_bytes = place_bytes(piece_N.nbytes)
    table_NP = as_bytes(places, 0, width, num_bytes)
    return tail_in_table(piece_N, table_NP, width)


def tail_in_table(piece_N: Tokens, table_NP: Places, width: int) -> int:
    """As `repeated_tail`, with the piece's table."""
    plain_N = piece_N[piece_N != separator_of(width)]
    first_V2 = first_ranges(piece_N, table_NP, width, int(plain_N.max(initial=0)) + 2)
    query_Q = piece_N[-min(len(piece_N), 1 << 24) :].astype(np.int64)
    length, _, _ = longest(piece_N, table_NP, width, first_V2, query_Q, 0, len(query_Q), len(query_Q), 2)
    return int(length)


def append_tail(file: Any, text_N: Tokens, places: NDArray[Any], width: int, num_bytes: int) -> int:
    """Write the places of a few suffixes in their order in the whole text; how many they are."""
    order = functools.cmp_to_key(lambda a, b: int(order_of(text_N, a, b, width)))
    write_places(file, np.array(sorted(places.tolist(), key=order), np.int64), 0, width, num_bytes)
    return len(places)


def merge_lists(
    text_N: Tokens, lists: Path, bounds: Sequence[int], table_path: Path, width: int, num_bytes: int, report: Report
) -> None:
    """Merge sorted lists of places, which stand one after the other in a file, into one table.

    Args:
        text_N: the whole text.
        lists: file of places.
        bounds: where each list begins in it, and, last, where the last one ends.
        table_path: what to write.
        width: bytes of a token.
        num_bytes: of a place.
        report: told of progress.
    """
    list_NP = open_table(lists, num_bytes)
    at_K = np.array(bounds[:-1], np.int64)
    end_K = np.array(bounds[1:], np.int64)
    heap_K = np.array([k for k in range(len(at_K)) if at_K[k] < end_K[k]], np.int64)
    size = order_heap(text_N, list_NP, width, at_K, heap_K)
    buffer_RP = np.empty((AT_ONCE, num_bytes), np.uint8)
    done = 0
    with table_path.open("wb") as table:
        while size:
            num_written, size = merge_some(text_N, list_NP, width, at_K, end_K, heap_K, size, buffer_RP)
            table.write(buffer_RP[:num_written].tobytes())
            done += num_written
            report("merging", done, len(list_NP))


def write_places(file: Any, places: NDArray[Any], shift: int, width: int, num_bytes: int) -> None:
    """Write places as byte offsets of so many bytes, moved by `shift` tokens."""
    for begin in range(0, len(places), AT_ONCE):
        file.write(as_bytes(places[begin : begin + AT_ONCE], shift, width, num_bytes).tobytes())


def as_bytes(places: NDArray[Any], shift: int, width: int, num_bytes: int) -> Places:
    """Places as rows of bytes, [N, P]."""
    offset_N = (places.astype("<u8") + np.uint64(shift)) * np.uint64(width)
    return np.ascontiguousarray(offset_N.view(np.uint8).reshape(-1, 8)[:, :num_bytes])


def open_text(path: Path, width: int) -> Tokens:
    """The tokens of a file, mapped into memory."""
    return _mapped(path, np.dtype(f"<u{width}"))


def open_table(path: Path, num_bytes: int) -> Places:
    """The places of a file, [N, P], mapped into memory."""
    return _mapped(path, np.dtype(np.uint8)).reshape(-1, num_bytes)


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
