"""Searches in suffix arrays, compiled: ranges of the table whose suffixes begin with some tokens.

A table holds the places of all suffixes of a text in order, as byte offsets of a few bytes each. The order is that of
the text's raw little-endian bytes, as in the public layout of infini-gram, not that of token numbers; `key_of` turns a
token into a number that sorts so. Where a text ends, its suffix is smaller than all that go on.

Source: Liu et al. (2024), arXiv:2401.17377; suffix arrays, Manber and Myers (1993).
"""

# Axes: B queries, N tokens of a text, P bytes of a place, Q tokens of all queries laid end to end, V vocabulary.

from __future__ import annotations

import numpy as np
from numba import njit

ENDED = -1  # the key of what comes behind the last token of a text


@njit(cache=True, nogil=True, inline="always")
def key_of(token, width):
    """A number that sorts as the bytes of a token do."""
    token = np.int64(token)
    if width == 1:
        return token
    if width == 2:
        return ((token & 0xFF) << 8) | (token >> 8)
    return ((token & 0xFF) << 24) | ((token & 0xFF00) << 8) | ((token >> 8) & 0xFF00) | (token >> 24)


@njit(cache=True, nogil=True, inline="always")
def place_at(table_NP, n, width):
    """Where the suffix of this rank begins, in tokens."""
    place = np.int64(0)
    for p in range(table_NP.shape[1]):
        place |= np.int64(table_NP[n, p]) << (8 * p)
    return place // width


@njit(cache=True, nogil=True, inline="always")
def key_at(text_N, place, width):
    """The key of the token at a place."""
    if place >= text_N.shape[0]:
        return np.int64(ENDED)
    return key_of(text_N[place], width)


@njit(cache=True, nogil=True)
def compare(text_N, place, query_Q, begin, end, skip, width):
    """-1, 0 or 1: whether a suffix comes before those that begin with the query, is one, or comes after.

    The first `skip` tokens are known to be equal.
    """
    for q in range(begin + skip, end):
        have = key_at(text_N, place + q - begin, width)
        want = key_of(query_Q[q], width)
        if have != want:
            return -1 if have < want else 1
    return 0


@njit(cache=True, nogil=True)
def find(text_N, table_NP, width, low, high, query_Q, begin, end, skip):
    """The ranks in [low, high) of suffixes that begin with query_Q[begin:end]."""
    top = high
    while low < high:  # the first that does not come before
        middle = (low + high) // 2
        if compare(text_N, place_at(table_NP, middle, width), query_Q, begin, end, skip, width) < 0:
            low = middle + 1
        else:
            high = middle
    # Most queries are rare: look for the end near the beginning first.
    step, last = np.int64(1), low
    while last < top and compare(text_N, place_at(table_NP, last, width), query_Q, begin, end, skip, width) == 0:
        low_end = last + 1
        last = min(low_end + step - 1, top)
        step *= 2
        if last == top:
            last = _first_behind(text_N, table_NP, width, low_end, top, query_Q, begin, end, skip)
            return low, last
    if last == low:
        return low, low
    return low, _first_behind(text_N, table_NP, width, low_end, last, query_Q, begin, end, skip)


@njit(cache=True, nogil=True)
def _first_behind(text_N, table_NP, width, low, high, query_Q, begin, end, skip):
    while low < high:
        middle = (low + high) // 2
        if compare(text_N, place_at(table_NP, middle, width), query_Q, begin, end, skip, width) == 0:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def narrow(text_N, table_NP, width, low, high, depth, token):
    """Of ranks whose suffixes share `depth` tokens, those that go on with this token."""
    want = key_of(token, width)
    first, top = low, high
    while first < high:
        middle = (first + high) // 2
        if key_at(text_N, place_at(table_NP, middle, width) + depth, width) < want:
            first = middle + 1
        else:
            high = middle
    return first, _end_of_key(text_N, table_NP, width, first, top, depth, want)


@njit(cache=True, nogil=True)
def _end_of_key(text_N, table_NP, width, first, top, depth, want):
    """The first rank from `first` on whose key at this depth is larger: far steps, then halving."""
    low, step = first, np.int64(1)
    high = first
    while high < top and key_at(text_N, place_at(table_NP, high, width) + depth, width) <= want:
        low = high + 1
        high = min(low + step, top)
        step *= 2
    while low < high:
        middle = (low + high) // 2
        if key_at(text_N, place_at(table_NP, middle, width) + depth, width) <= want:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def first_ranges(text_N, table_NP, width, num_rows):
    """For each token the ranks of suffixes that begin with it, [num_rows, 2]; the last row is the separator's."""
    range_V2 = np.zeros((num_rows, 2), np.int64)
    rank, top = np.int64(0), np.int64(table_NP.shape[0])
    while rank < top:
        token = np.int64(text_N[place_at(table_NP, rank, width)])
        last = _end_of_key(text_N, table_NP, width, rank, top, 0, key_of(token, width))
        row = min(token, num_rows - 1)
        range_V2[row, 0], range_V2[row, 1] = rank, last
        rank = last
    return range_V2


@njit(cache=True, nogil=True)
def find_from_first(text_N, table_NP, width, first_V2, query_Q, begin, end):
    """As `find`, in the ranks of the query's first token."""
    if begin == end:
        return np.int64(0), np.int64(table_NP.shape[0])
    row = min(query_Q[begin], first_V2.shape[0] - 1)
    low, high = first_V2[row, 0], first_V2[row, 1]
    if end - begin == 1 or low == high:
        return low, high
    return find(text_N, table_NP, width, low, high, query_Q, begin, end, 1)


@njit(cache=True, nogil=True)
def longest(text_N, table_NP, width, first_V2, query_Q, begin, end, at_most, at_least):
    """Length and ranks of the longest suffix of query_Q[begin:end] that occurs `at_least` times.

    It is looked for ever twice as far, then by halving.
    """
    at_most = min(at_most, end - begin)
    good, good_low, good_high = np.int64(0), np.int64(0), np.int64(table_NP.shape[0])
    bad, length = at_most + 1, np.int64(1)
    while good + 1 < bad:
        length = min(length, bad - 1)
        low, high = find_from_first(text_N, table_NP, width, first_V2, query_Q, end - length, end)
        if high - low >= at_least:
            good, good_low, good_high = length, low, high
            length = 2 * length if bad > at_most else (good + bad) // 2
        else:
            bad = length
            length = (good + bad) // 2
    return good, good_low, good_high


@njit(cache=True, nogil=True)
def count_many(text_N, table_NP, width, first_V2, query_Q, begin_B, end_B, range_B2):
    """Ranks of the suffixes that begin with each query, written into range_B2."""
    for b in range(begin_B.shape[0]):
        low, high = find_from_first(text_N, table_NP, width, first_V2, query_Q, begin_B[b], end_B[b])
        range_B2[b, 0], range_B2[b, 1] = low, high


@njit(cache=True, nogil=True)
def longest_many(text_N, table_NP, width, first_V2, query_Q, begin_B, end_B, at_most_B, length_B, range_B2):
    """`longest` for each query, written into length_B and range_B2."""
    for b in range(begin_B.shape[0]):
        length, low, high = longest(text_N, table_NP, width, first_V2, query_Q, begin_B[b], end_B[b], at_most_B[b], 1)
        length_B[b], range_B2[b, 0], range_B2[b, 1] = length, low, high


@njit(cache=True, nogil=True)
def narrow_many(text_N, table_NP, width, range_B2, depth_B, token_B, narrowed_B2):
    """`narrow` for each row, written into narrowed_B2; an empty range stays empty."""
    for b in range(depth_B.shape[0]):
        low, high = range_B2[b, 0], range_B2[b, 1]
        if low < high:
            low, high = narrow(text_N, table_NP, width, low, high, depth_B[b], token_B[b])
        narrowed_B2[b, 0], narrowed_B2[b, 1] = low, high


@njit(cache=True, nogil=True)
def list_next_counts_many(text_N, table_NP, width, first_V2, range_B2, depth_B, token_L, count_L, end_B):
    """What follows in each row, as lists laid end to end: tokens, counts, and where the list of each row ends.

    The token behind the last one stands for separators and the end of the text.
    """
    last_token = first_V2.shape[0] - 1
    written = np.int64(0)
    for b in range(depth_B.shape[0]):
        rank, high, depth = range_B2[b, 0], range_B2[b, 1], depth_B[b]
        if depth == 0 and high - rank == table_NP.shape[0]:
            for v in range(last_token + 1):
                if first_V2[v, 1] > first_V2[v, 0]:
                    token_L[written], count_L[written] = v, first_V2[v, 1] - first_V2[v, 0]
                    written += 1
        else:
            begin = written
            while rank < high:
                place = place_at(table_NP, rank, width) + depth
                key = key_at(text_N, place, width)
                behind = _end_of_key(text_N, table_NP, width, rank, high, depth, key)
                token = last_token if key == ENDED else min(np.int64(text_N[place]), last_token)
                if token == last_token and written > begin and token_L[begin] == last_token:
                    count_L[begin] += behind - rank  # the end of the text came first, a separator comes last
                else:
                    token_L[written], count_L[written] = token, behind - rank
                    written += 1
                rank = behind
        end_B[b] = written
