"""What the server tells Prometheus of itself: requests, times to tokens, rows, tokens, and what was turned away.

Numbers only: no prompt, no text, no name of a factor, no key. Labels come from the server's own tables, so that no
client can make them many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"  # the route of a request that has none
METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}
FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
GAUGES = {
    "rows_active": "Texts that are being written.",
    "rows_waiting": "Texts that wait for a place.",
}
COUNTERS = {
    "tokens_drawn": "Tokens that the engine has drawn.",
    "tokens_read": "Tokens that the engine has read.",
    "steps": "Steps that the engine has made.",
}

Load = Callable[[], Mapping[str, float]]


class Metrics:
    """One server's numbers, in a registry of its own.

    Args:
        load: counters and gauges of the engine, by name; see `Engine.load`.
    """

    def __init__(self, load: Load = dict) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "factorlm_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._first_s = Histogram(
            "factorlm_time_to_first_token_seconds",
            "From the arrival of a request to the first token of a text.",
            buckets=FIRST_S,
            registry=self.registry,
        )
        self._between_s = Histogram(
            "factorlm_time_between_tokens_seconds",
            "From one token of a text to its next.",
            buckets=BETWEEN_S,
            registry=self.registry,
        )
        self._tokens = Counter(
            "factorlm_tokens",
            "Tokens of prompts and of texts, as clients count them.",
            ("kind",),
            registry=self.registry,
        )
        self._rejected = Counter(
            "factorlm_rejected", "Requests that were turned away.", ("reason",), registry=self.registry
        )
        self.registry.register(_EngineCollector(load))

    def count_request(self, method: str, route: str, status: int) -> None:
        """A request was answered; its route is that of the table of routes, not its path."""
        self._requests.labels(method if method in METHODS else OTHER, route, str(status)).inc()
        if status in (401, 403, 413, 429):
            reason = {401: "key", 403: "scope", 413: "size", 429: "rate or queue"}[status]
            self._rejected.labels(reason).inc()

    def first_token(self, seconds: float) -> None:
        """The first token of a text came, so long after its request."""
        self._first_s.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        """The next token of a text came, so long after the one before."""
        self._between_s.observe(seconds)

    def count_tokens(self, prompt: int = 0, text: int = 0) -> None:
        """Tokens were read in a prompt, and written in its texts."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("text").inc(text)

    def render(self) -> bytes:
        """Everything in Prometheus's text format; its type is CONTENT_TYPE."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Asks the engine when somebody looks."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        found = self._load()
        for name, what in GAUGES.items():
            if name in found:
                yield GaugeMetricFamily(f"factorlm_{name}", what, value=found[name])
        for name, what in COUNTERS.items():
            if name in found:
                yield CounterMetricFamily(f"factorlm_engine_{name}", what, value=found[name])


class Counted:
    """Pure ASGI middleware that counts every request under the path of its route.

    Attributes:
        app: what comes behind it.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # where nothing is answered at all

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.count_request(scope["method"], getattr(scope.get("route"), "path", OTHER), status)
