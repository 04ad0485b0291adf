"""Timing with a clock that the ways move themselves, so that every number is known."""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from factorlm.cli import bench
from factorlm.errors import InputError
from factorlm.evaluation import speed
from factorlm.evaluation.harness import AGAIN, Timing, compare_speed, median_interval
from factorlm.factors.headed import HeadedModel
from factorlm.models import CausalLM

RANDOM_HEADS = speed.random_heads


class Bench:
    """Ways that take as long as they are told to; the first run of each is the warm-up."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.now = 0.0
        self.left: dict[str, Iterator[float]] = {way: iter([0.0, *s]) for way, s in seconds.items()}
        self.seen: list[tuple[str, int]] = []

    def way(self, name: str) -> Callable[[int], int]:
        def run(x: int) -> int:
            self.seen.append((name, x))
            self.now += next(self.left[name])
            return x * x

        return run

    def compare(self, **changed: Any) -> Timing:
        asked: dict[str, Any] = {
            "ways": {name: self.way(name) for name in self.left},
            "inputs": lambda repeat: 10 + repeat,
            "agree": lambda want, got: None if want == got else f"{got} is not {want}",
            "baseline": "base",
            "clock": lambda: self.now,
            **changed,
        }
        return compare_speed("squares", **asked)


def test_ratios_are_medians_of_pairs_not_ratios_of_medians() -> None:
    base, other = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [3.0, 2.0, 2.0, 24.0, 24.0, 16.0]
    bench = Bench({"base": base, "other": other})
    found = bench.compare(repeats=6, work_per_run=2, unit="square")
    pairs = [3.0, 1.0, 0.5, 3.0, 1.5, 0.5]
    ratio = found.ratio("other")
    assert ratio.ratio == statistics.median(pairs) == 1.25
    assert ratio.ratio != statistics.median(other) / statistics.median(base)
    assert (ratio.lowest, ratio.highest) == (0.5, 3.0)
    assert (ratio.low, ratio.high) == (0.5, 3.0)  # of six values only the whole range holds the median in 95 %
    assert ratio.coverage == pytest.approx(1 - 2 / 2**6)
    assert ratio.verdict == "no difference shown"
    assert ratio.seconds == statistics.median(other) / 2
    assert found.seconds["base"] == tuple(s / 2 for s in base)
    assert found.baseline_seconds == 3.0
    assert found.repeats == 6
    assert found.noise is None
    assert found.threads == torch.get_num_threads()
    assert Timing.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(("ratio_of", "want"), [("time", 0.5), ("speed", 2.0)])
def test_a_way_that_takes_half_the_time_is_faster_either_way(ratio_of: str, want: float) -> None:
    found = Bench({"base": [2.0] * 7, "other": [1.0] * 7}).compare(repeats=7, ratio_of=ratio_of).ratio("other")
    assert (found.ratio, found.low, found.high, found.verdict) == (want, want, want, "faster")
    slower = Bench({"base": [1.0] * 7, "other": [2.0] * 7}).compare(repeats=7, ratio_of=ratio_of).ratio("other")
    assert slower.verdict == "slower"


def test_every_way_runs_equally_often_in_each_place_and_on_the_same_inputs() -> None:
    ways = ["base", "b", "c"]
    bench = Bench({way: [1.0] * 6 for way in ways})
    forgotten: list[int] = []
    found = bench.compare(repeats=6, before_each=lambda: forgotten.append(len(bench.seen)))
    assert bench.seen[:3] == [(way, 10) for way in ways]  # the warm-up, which is not counted
    assert forgotten == list(range(3 + 18))
    for repeat, order in enumerate(found.orders):
        assert bench.seen[3 + 3 * repeat : 6 + 3 * repeat] == [(way, 11 + repeat) for way in order]
    for place in range(3):
        assert sorted(order[place] for order in found.orders) == sorted(ways * 2)
    for first, second in zip(found.orders[::2], found.orders[1::2], strict=True):
        assert first == second[::-1]


def test_a_machine_that_slows_down_steadily_favours_nobody() -> None:
    class Slowing(Bench):
        def way(self, name: str) -> Callable[[int], int]:
            def run(x: int) -> int:
                self.now += 1.0 + 0.01 * len(self.seen)  # each run takes longer than the one before
                self.seen.append((name, x))
                return 0

            return run

    found = Slowing({"base": [], "other": []}).compare(repeats=8).ratio("other")
    assert found.ratio == pytest.approx(1, abs=1e-3)
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(("again", "verdict"), [(1.0, "no difference shown"), (2.0, "slower"), (0.5, "faster")])
def test_the_baseline_against_itself_shows_the_noise(again: float, verdict: str) -> None:
    orders = Bench({"base": [1.0] * 15, "other": [1.0] * 7}).compare(repeats=7, with_noise=True).orders
    lasts = [again if way == AGAIN else 1.0 for order in orders for way in order if way != "other"]
    found = Bench({"base": [0.0, *lasts], "other": [3.0] * 7}).compare(repeats=7, with_noise=True)
    assert found.noise is not None
    assert (found.noise.ratio, found.noise.verdict) == (again, verdict)
    assert [ratio.way for ratio in found.ratios] == ["other"]
    assert found.ratio("other").ratio == 3.0
    assert set(found.seconds) == {"base", "other", AGAIN}
    assert bool(found.cautions) == (again != 1.0)


def test_nothing_is_timed_unless_the_ways_agree() -> None:
    bench = Bench({"base": [1.0] * 3, "other": [1.0] * 3})
    ways = {"base": bench.way("base"), "other": lambda x: -x}
    with pytest.raises(InputError, match="'other' does not agree with 'base': -10 is not 100"):
        bench.compare(ways=ways, repeats=3)
    assert bench.seen == [("base", 10)]

    def asserting(want: int, got: int) -> None:
        torch.testing.assert_close(got, want)

    with pytest.raises(InputError, match="does not agree"):
        bench.compare(ways=ways, agree=asserting, repeats=3)


def test_a_way_with_another_answer_has_a_twin() -> None:
    ways = {"base": lambda x: x, "other": lambda x: x + x}
    clock = iter(float(n) for n in range(100))
    found = Bench({}).compare(ways=ways, twins={"other": lambda x: 2 * x}, repeats=3, clock=lambda: next(clock))
    assert found.repeats == 3
    with pytest.raises(InputError, match="does not agree with its twin: 20 is not 30"):
        Bench({}).compare(ways=ways, twins={"other": lambda x: 3 * x}, repeats=3)


def test_few_repeats_are_refused_or_have_no_interval() -> None:
    with pytest.raises(InputError, match="at least 3 repeats are needed for a median, got 2"):
        Bench({"base": [1.0] * 2, "other": [1.0] * 2}).compare(repeats=2)
    found = Bench({"base": [1.0] * 5, "other": [2.0] * 5}).compare(repeats=5)
    assert found.ratio("other").low is None
    assert found.ratio("other").verdict == "too few repeats to tell"
    assert "5 repeats are too few for a 95 % interval" in found.cautions[0]
    with pytest.raises(InputError, match="at least two ways"):
        Bench({"base": [1.0] * 3}).compare(repeats=3)
    with pytest.raises(InputError, match="'base'"):
        Bench({"a": [1.0] * 3, "b": [1.0] * 3}).compare(repeats=3)


@pytest.mark.parametrize("number", [3, 5, 6, 7, 9, 12, 15, 20, 41])
def test_the_interval_of_the_median_is_that_of_the_sign_test(number: int) -> None:
    from scipy.stats import quantile_test

    values = torch.rand(number, generator=torch.Generator().manual_seed(number)).double().tolist()
    found = median_interval(values)
    want = quantile_test(values, p=0.5).confidence_interval(0.95)
    if found is None:
        assert math.isnan(want.low) or math.isnan(want.high)
        assert 1 - 2 / 2**number < 0.95
    else:
        assert found[:2] == pytest.approx((want.low, want.high))


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(4000):
        draws = torch.empty(9).exponential_(generator=generator).tolist()
        low, high, coverage = median_interval(draws) or (0.0, 0.0, 0.0)
        hits += low <= math.log(2) <= high
    assert coverage == pytest.approx(1 - 2 * 10 / 512)
    assert hits / 4000 == pytest.approx(coverage, abs=0.0125)  # four standard errors: a false alarm in 16,000


def test_memory_of_every_way_is_measured_on_request() -> None:
    """In a process of its own: memory that other tests freed would be reused, and not be seen to grow."""
    code = """
import torch
from factorlm.evaluation.harness import compare_speed, peak_memory

def large(x=0):
    torch.ones(25_000_000).sum()  # 100 MB
    return x

def none(want, got):
    return None

timing = compare_speed("memory", {"base": lambda x: x, "large": large}, lambda repeat: repeat, agree=none,
                       baseline="base", repeats=3, with_memory=True)
print(peak_memory(large), peak_memory(lambda: None), timing.ratio("large").peak_bytes, timing.baseline_peak_bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if "None" in done.stdout:
        pytest.skip("this system does not tell the peak of its memory")
    large, nothing, way, baseline = map(int, done.stdout.split())
    assert 90e6 < large < 150e6
    assert nothing < 20e6
    assert way > 80e6 > baseline


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def test_the_three_benchmarks_run_and_their_gates_pass(tiny_lm: CausalLM) -> None:
    heads = speed.heads_against_none(tiny_lm, 2, num_heads=3, rank=2, num_repeats=3, with_noise=True, report=quiet)
    assert (heads.num_heads, heads.rank, heads.batch_size, heads.num_repeats) == (3, 2, 2, 3)
    assert heads.head_bytes == 4 * 3 * (32 + 2 * 2 * 32)
    assert heads.number_format == "float32"
    assert heads.noise is not None
    decoding = speed.decoding_against_transformers(tiny_lm, 2, num_repeats=3, with_noise=True, report=quiet)
    assert decoding.timing.ratio_of == "speed"
    for evidence in (False, True):
        scoring = speed.scoring_with_factors(tiny_lm, 2, num_heads=2, evidence=evidence, num_repeats=3, report=quiet)
        assert scoring.timing.work_per_run == 64
        assert scoring.ms_per_token == 1e3 * scoring.timing.ratios[0].seconds
        assert speed.SpeedRecord.model_validate_json(scoring.model_dump_json()) == scoring


def test_no_way_profits_from_what_another_has_read(tiny_lm: CausalLM) -> None:
    read: list[int] = []

    def clock() -> float:
        read.append(tiny_lm.num_tokens_read)
        return float(len(read))

    speed.time_heads(tiny_lm, (2,), 1, rank=0, repeats=4, new_tokens=3, with_noise=True, clock=clock, report=quiet)
    per_run = [end - start for start, end in zip(read[::2], read[1::2], strict=True)]
    assert per_run == [16 + 2] * 12  # the prompt, and every token but the last


def test_heads_that_are_forgotten_are_noticed(tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadedModel, "shifted", lambda self, hidden_ND, exponent_NK: hidden_ND)
    monkeypatch.setattr(speed, "random_heads", lambda lm, n, rank: RANDOM_HEADS(lm, n, rank, scale=0.5))
    with pytest.raises(InputError, match=r"'2 heads' does not agree with its twin: row . has another token"):
        speed.time_heads(tiny_lm, (2,), 2, rank=0, repeats=3, report=quiet)
    with pytest.raises(InputError, match="'with factors' does not agree with its twin: they are"):
        speed.scoring_with_factors(tiny_lm, 2, num_heads=2, num_repeats=3, report=quiet)


def test_rows_may_part_only_at_a_tie(tiny_lm: CausalLM) -> None:
    prompt_BT = torch.tensor([[5, 6, 7], [8, 9, 10]])
    want = speed.greedy(tiny_lm, prompt_BT, 4)
    torch.testing.assert_close(want.token_BT[:, :3], prompt_BT)
    log_prob_BV = tiny_lm.start(prompt_BT).log_weight_BV
    best = log_prob_BV[1].topk(2)
    other_BT = want.token_BT.clone()
    other_BT[1, 3] = best.indices[1]
    other_BT[1, 4] = 11  # behind the place where rows part, nothing is compared
    got = speed.Written(other_BT, None)
    gap = float(best.values[0] - best.values[1])
    assert speed.same_tokens(gap + 1e-3)(want, got) is None
    assert "row 1 has another token at place 3" in (speed.same_tokens(gap - 1e-3)(want, got) or "")
    assert speed.same_tokens(1e-3)(want, want) is None
    assert speed.same_tokens(9.0)(got, speed.Written(want.token_BT, None)) == "row 1 has another token at place 3"
    assert "tokens against" in (speed.same_tokens(1.0)(want, speed.Written(other_BT[:, :5], None)) or "")


def test_bench_prints_ratios_and_json(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"model": str(tiny_folder), "repeats": 3}
    bench.heads(**asked, num_heads=2, rank=1, noise=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "time per token with heads / without, 2 heads of rank 1, batch 1 (too few repeats to tell" in shown
    assert "no heads against itself" in shown
    assert "3 repeats are too few for a 95 % interval" in shown
    bench.run_all(as_json=True, **asked)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["batch_size"], row["num_heads"]) for row in found] == [
        (1, 32),
        (8, 32),
        (1, 0),
        (8, 0),
        (32, 0),
        (8, 12),
        (8, 12),
        (1, 0),
        (8, 0),
        (1, 0),
        (8, 0),
        (16, 1),
        (1, 0),
        (1, 0),
        (1, 0),
        (1, 0),
        (8, 0),
        (1, 0),
    ]
    kept = {"benchmark", "rank", "ratio", "lowest", "highest", "num_repeats", "ms_per_token", "other_ms_per_token",
            "head_bytes", "encoder_bytes", "number_format", "machine"}  # fmt: skip
    assert all(kept <= set(row) for row in found)
