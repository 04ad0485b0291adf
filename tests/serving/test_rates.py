"""Rates: so much in a minute, steadily, for each key; nothing is refused for ever; memory is bounded."""

import threading

import pytest

from factorlm.serving import rates as module
from factorlm.serving.jobs import OverloadedError
from factorlm.serving.keys import Caller
from factorlm.serving.rates import Rates
from factorlm.serving.settings import Limits

from .conftest import Serve


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


ANN, BOB = (Caller("x", number, ("read",)) for number in (1, 2))


def refused_for(rates: Rates, caller: Caller, **costs: int) -> float:
    with pytest.raises(OverloadedError) as caught:
        rates.spend(caller, **costs)
    return caught.value.retry_after_s


def test_a_bucket_empties_and_fills_steadily() -> None:
    clock = Clock()
    rates = Rates(requests_per_minute=6, clock=clock)
    for _ in range(6):
        rates.spend(ANN)
    assert refused_for(rates, ANN) == pytest.approx(10)
    rates.spend(BOB)
    clock.now += 4
    assert refused_for(rates, ANN) == pytest.approx(6), "being refused costs nothing"
    clock.now += 6
    rates.spend(ANN)
    assert refused_for(rates, ANN) == pytest.approx(10)
    clock.now += 1e6
    for _ in range(6):
        rates.spend(ANN)
    refused_for(rates, ANN)


def test_a_rate_holds_over_time() -> None:
    clock = Clock()
    rates, let_in = Rates(requests_per_minute=30, clock=clock), 0
    for _ in range(10_000):
        clock.now += 0.1
        try:
            rates.spend(ANN)
        except OverloadedError:
            continue
        let_in += 1
    assert let_in == pytest.approx(30 + 30 * 1000 / 60, abs=1)


def test_tokens_that_a_full_bucket_does_not_hold_are_paid_off_later() -> None:
    clock = Clock()
    rates = Rates(tokens_per_minute=60, clock=clock)
    rates.spend(ANN, tokens=150)
    assert refused_for(rates, ANN, tokens=30) == pytest.approx(120)
    clock.now += 120
    rates.spend(ANN, tokens=30)
    assert refused_for(rates, ANN, tokens=500) == pytest.approx(60)


def test_what_was_not_used_is_given_back() -> None:
    rates = Rates(requests_per_minute=2, tokens_per_minute=100, clock=Clock())
    rates.spend(ANN, tokens=100)
    refused_for(rates, ANN, tokens=50)
    rates.spend(ANN, tokens=-60, requests=0)
    rates.spend(ANN, tokens=60)
    rates.spend(ANN, tokens=70, requests=0)  # settling is never refused, also where it is a debt
    assert refused_for(rates, ANN) == pytest.approx(30), "requests are spent, too"


def test_either_bucket_refuses_and_the_other_keeps_what_it_has() -> None:
    rates = Rates(requests_per_minute=10, tokens_per_minute=100, clock=Clock())
    rates.spend(ANN, tokens=100)
    for _ in range(20):
        refused_for(rates, ANN, tokens=1)
    for _ in range(9):
        rates.spend(ANN)
    refused_for(rates, ANN)


def test_without_limits_nothing_is_refused() -> None:
    rates = Rates()
    for _ in range(1000):
        rates.spend(ANN, tokens=10**9)


def test_buckets_of_many_keys_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BUCKETS", 10)
    rates = Rates(requests_per_minute=1, clock=Clock())
    for number in range(100):
        rates.spend(Caller("x", number, ()))
    assert len(rates._buckets) == 10
    refused_for(rates, Caller("x", 99, ()))


def test_threads_do_not_get_more() -> None:
    rates, let_in = Rates(requests_per_minute=100, clock=Clock()), []

    def ask() -> None:
        for _ in range(50):
            try:
                rates.spend(ANN)
            except OverloadedError:
                continue
            let_in.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 100


def test_a_client_is_told_when_to_come_again(serve: Serve) -> None:
    server = serve(limits=Limits(requests_per_minute=3))
    body = {"prompt": "a", "text": "b", "thumb": "up"}
    answers = [server.client.post("/v1/feedback", json=body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert "3 requests a minute" in answers[-1].json()["error"]["message"]
    assert server.database.count_feedback() == 3
    told = server.client.get("/metrics").text
    assert 'factorlm_rejected_total{reason="rate or queue"} 1.0' in told
    assert 'factorlm_requests_total{method="POST",route="/v1/feedback",status="429"} 1.0' in told
