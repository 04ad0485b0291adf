"""Metrics: what Prometheus reads, that it counts what happened, and that no client makes it grow."""

from prometheus_client.parser import text_string_to_metric_families

from factorlm.serving.metrics import CONTENT_TYPE, Metrics

from .conftest import Served


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_are_rendered() -> None:
    metrics = Metrics(lambda: {"rows_active": 3.0, "rows_waiting": 1.0, "tokens_drawn": 7.0, "unknown": 9.0})
    metrics.first_token(0.02)
    metrics.between_tokens(0.004)
    metrics.count_tokens(prompt=5, text=2)
    for status in (200, 200, 429):
        metrics.count_request("POST", "/v1/completions", status)
    found = samples(metrics.render().decode())
    route = (("method", "POST"), ("route", "/v1/completions"))
    assert found["factorlm_requests_total", (*route, ("status", "200"))] == 2
    assert found["factorlm_rejected_total", (("reason", "rate or queue"),)] == 1
    assert found["factorlm_tokens_total", (("kind", "prompt"),)] == 5
    assert found["factorlm_rows_active", ()] == 3
    assert found["factorlm_engine_tokens_drawn_total", ()] == 7
    assert found["factorlm_time_to_first_token_seconds_bucket", (("le", "0.01"),)] == 0
    assert found["factorlm_time_to_first_token_seconds_bucket", (("le", "0.025"),)] == 1
    assert found["factorlm_time_between_tokens_seconds_sum", ()] == 0.004
    assert not any("unknown" in name for name, _ in found)


def test_servers_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.count_tokens(prompt=5)
    assert ("factorlm_tokens_total", (("kind", "prompt"),)) not in samples(other.render().decode())


def test_a_server_counts_requests_by_route(server: Served) -> None:
    for path in ("/v1/factors/a", "/v1/factors/b", "/nothing", "/else", "/v1/factors"):
        server.client.get(path)
    server.client.request("BREW", "/v1/factors")
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    found = {
        (labels["method"], labels["route"], labels["status"]): value
        for (name, pairs), value in samples(answer.text).items()
        if name == "factorlm_requests_total" and (labels := dict(pairs))
    }
    assert found["GET", "/v1/factors/{name}", "404"] == 2
    assert found["GET", "other", "404"] == 2
    assert found["GET", "/v1/factors", "200"] == 1
    assert sum(value for (method, _, _), value in found.items() if method == "other") == 1


def test_tokens_and_times_of_a_completion(server: Served) -> None:
    answer = server.client.post("/v1/completions", json={"prompt": "the", "max_tokens": 5, "seed": 1}).json()
    found = samples(server.client.get("/metrics").text)
    assert found["factorlm_tokens_total", (("kind", "text"),)] == answer["usage"]["completion_tokens"]
    assert found["factorlm_time_to_first_token_seconds_count", ()] == 1
    assert found["factorlm_time_between_tokens_seconds_count", ()] == answer["usage"]["completion_tokens"] - 1
    assert found["factorlm_rows_active", ()] == 0
    assert "the" not in {value for _, labels in found for _, value in labels}
