"""What is written down of each answer: numbers for Prometheus, a line in the log, what its key used."""

from __future__ import annotations

import time

from fastapi import Request

from factorlm.serving.answers import Answer
from factorlm.serving.complaints import log
from factorlm.serving.jobs import Piece
from factorlm.serving.keys import Caller
from factorlm.serving.metrics import Metrics
from factorlm.serving.rates import Rates
from factorlm.serving.settings import ServerSettings


class Ledger:
    """The account of one answer. Texts are written down only if the server was told to.

    Args:
        request: that is answered.
        caller: who asked.
        reserved: tokens that the key has paid for already.
    """

    def __init__(self, request: Request, caller: Caller, reserved: int) -> None:
        state = request.app.state
        self._rates: Rates = state.rates
        self._metrics: Metrics = state.metrics
        self._settings: ServerSettings = state.settings
        self._caller, self._reserved = caller, reserved
        self._began = time.monotonic()
        self._last: dict[int, float] = {}  # when each text got its last token

    def note(self, piece: Piece) -> None:
        """A token came."""
        now = time.monotonic()
        if piece.row in self._last:
            self._metrics.between_tokens(now - self._last[piece.row])
        else:
            self._metrics.first_token(now - self._began)
        self._last[piece.row] = now

    def give_back(self) -> None:
        """Nothing was read or written."""
        self._rates.spend(self._caller, -self._reserved, requests=0)

    def close(self, answer: Answer, how: str) -> None:
        """Nothing more comes."""
        usage, took_s = answer.usage, time.monotonic() - self._began
        self._rates.spend(self._caller, usage.total_tokens - self._reserved, requests=0)
        self._metrics.count_tokens(usage.prompt_tokens, usage.completion_tokens)
        told = f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} written in {took_s:.2f} s"
        log.info("%s for %s is %s: %s", answer.id, self._caller.tenant, how, told)
        if self._settings.log_texts:
            log.info("%s: %r -> %r", answer.id, answer.job.prompt_texts, [written.text for written in answer.written])
