"""Merging sorted lists of suffixes, compiled."""

# Axes: K sorted lists, N tokens or suffixes, P bytes of a place, R places written at once.

from __future__ import annotations

from numba import njit

from factorlm.memory.ranges import key_at, place_at


@njit(cache=True, nogil=True)
def keep_aligned(places, width):
    """Move the places where a token begins to the front, as token numbers; how many they are."""
    kept = 0
    for n in range(places.shape[0]):
        if places[n] % width == 0:
            places[kept] = places[n] // width
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def order_of(text_N, first, second, width):
    """-1, 0 or 1: which of two suffixes comes first."""
    if first == second:
        return 0
    depth = 0
    while True:
        one, other = key_at(text_N, first + depth, width), key_at(text_N, second + depth, width)
        if one != other:
            return -1 if one < other else 1
        depth += 1


@njit(cache=True, nogil=True)
def _comes_first(text_N, list_NP, width, at_K, one, other):
    first = place_at(list_NP, at_K[one], width)
    return order_of(text_N, first, place_at(list_NP, at_K[other], width), width) < 0


@njit(cache=True, nogil=True)
def _sink(text_N, list_NP, width, at_K, heap_K, size, n):
    while True:
        child = 2 * n + 1
        if child >= size:
            return
        if child + 1 < size and _comes_first(text_N, list_NP, width, at_K, heap_K[child + 1], heap_K[child]):
            child += 1
        if not _comes_first(text_N, list_NP, width, at_K, heap_K[child], heap_K[n]):
            return
        heap_K[n], heap_K[child] = heap_K[child], heap_K[n]
        n = child


@njit(cache=True, nogil=True)
def order_heap(text_N, list_NP, width, at_K, heap_K):
    """Bring the lists into the order of a heap by their first suffixes; how many they are."""
    size = heap_K.shape[0]
    for n in range(size // 2 - 1, -1, -1):
        _sink(text_N, list_NP, width, at_K, heap_K, size, n)
    return size


@njit(cache=True, nogil=True)
def merge_some(text_N, list_NP, width, at_K, end_K, heap_K, size, buffer_RP):
    """Fill the buffer with the next places; how many were written, and how many lists are left."""
    written = 0
    while written < buffer_RP.shape[0] and size > 0:
        k = heap_K[0]
        buffer_RP[written] = list_NP[at_K[k]]
        written += 1
        at_K[k] += 1
        if at_K[k] == end_K[k]:
            size -= 1
            heap_K[0] = heap_K[size]
        _sink(text_N, list_NP, width, at_K, heap_K, size, 0)
    return written, size


@njit(cache=True, nogil=True)
def first_disorder(text_N, table_NP, width, begin, end, seen_N):
    """The first rank in [begin, end) whose suffix was seen before, lies outside, or is not behind the one before it.

    -1 where all is well. What is seen is noted in seen_N.
    """
    for rank in range(begin, end):
        place = place_at(table_NP, rank, width)
        if place >= text_N.shape[0] or seen_N[place]:
            return rank
        seen_N[place] = True
        if rank and order_of(text_N, place_at(table_NP, rank - 1, width), place, width) >= 0:
            return rank
    return -1
