"""How much a key may ask for in a minute: two buckets for each key, of requests and of tokens, that fill steadily.

A request may cost more tokens than a full bucket holds; it is let in when the bucket is full, and the next ones wait
until what it overdrew has come in again. So the rate holds over time, and no request is refused for ever.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Request

from factorlm.serving.jobs import OverloadedError
from factorlm.serving.keys import Caller, require

MOST_BUCKETS = 10_000  # the key that was quiet longest is forgotten first; its buckets are the likeliest to be full


class Rates:
    """The buckets of all keys; may be used from several threads.

    Args:
        requests_per_minute: of one key; 0 for as many as it likes.
        tokens_per_minute: of one key; 0 for as many as it likes.
        clock: seconds since any fixed moment.
    """

    def __init__(
        self, requests_per_minute: int = 0, tokens_per_minute: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sizes = (float(requests_per_minute), float(tokens_per_minute))
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[int, tuple[float, float, float]] = OrderedDict()  # requests, tokens, when

    def spend(self, caller: Caller, tokens: int = 0, requests: int = 1) -> None:
        """Take from the buckets of a key, or from neither.

        Args:
            caller: whose key it is.
            tokens: to read and write; negative to give some back.
            requests: 0 to settle the account of a request that was let in before, which is never refused.

        Raises:
            OverloadedError: if there is not enough in them now.
        """
        costs = (float(requests), float(tokens))
        with self._lock:
            now = self._clock()
            *levels, then = self._buckets.get(caller.key_id, (*self._sizes, now))
            filled = [
                min(size, level + size * (now - then) / 60) for size, level in zip(self._sizes, levels, strict=True)
            ]
            waits = [_wait(*bucket) if requests else 0.0 for bucket in zip(self._sizes, filled, costs, strict=True)]
            wait_s, what = max(zip(waits, ("requests", "tokens"), strict=True))
            if wait_s == 0:
                filled = [level - cost for level, cost in zip(filled, costs, strict=True)]
            self._buckets[caller.key_id] = (filled[0], filled[1], now)
            self._buckets.move_to_end(caller.key_id)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        if wait_s:
            most = self._sizes[what == "tokens"]
            raise OverloadedError(f"this key may use {most:.0f} {what} a minute; try again in {wait_s:.1f} s", wait_s)


def _wait(size: float, level: float, cost: float) -> float:
    """Seconds until a bucket can give that much; 0 if it can now, or has no limit."""
    missing = min(cost, size) - level
    return 60 * missing / size if size and cost and missing > 1e-9 else 0.0


def counted(scope: str) -> Callable[[Request], Caller]:
    """A dependency of a route: who asks, if they may, and within their rate.

    Raises:
        RefusedError: from the dependency: as `keys.require`.
        OverloadedError: from the dependency: if it was too often.
    """
    check = require(scope)

    def pay(request: Request) -> Caller:
        caller = check(request)
        request.app.state.rates.spend(caller)
        return caller

    return pay
