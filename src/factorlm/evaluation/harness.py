"""The one way of timing: ways of doing one thing, run in turn in one process, compared by the ratios of their pairs.

Every way is first run on a warm-up input, and must give the right answer there; without that nothing is timed. Then in
each repeat all ways run on one fresh input. Each order is followed by its reverse (ABBA), so that a machine that slows
down steadily favours nobody, and orders rotate, so that each way runs equally often after each pause.

The ratio is the median of the ratios of the pairs of a repeat. Its 95 % interval is made of order statistics of these
ratios: it holds for every distribution of times without a bell curve, without drawing random numbers, and says openly
when there are too few repeats, where a bootstrap of the median would be too narrow.
"""

# Axes: R repeats.

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from factorlm.errors import InputError
from factorlm.evaluation.intervals import LEVEL
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.workbench import Progress
from factorlm.settings import Config

X = TypeVar("X")
Y = TypeVar("Y")
Verdict = Literal["faster", "slower", "no difference shown", "too few repeats to tell"]
FEWEST_REPEATS = 3
FEWEST_FOR_INTERVAL = 6  # with fewer, the whole range of the ratios holds their median in less than 95 % of cases
AGAIN = "the baseline again"


class Ratio(Config):
    """One way against the baseline.

    Attributes:
        way: which.
        ratio: median of the ratios of the pairs.
        low: lower end of its interval; None where repeats are too few for one.
        high: upper end.
        coverage: probability that such an interval holds the true median: at least 95 %.
        lowest: smallest ratio of a pair.
        highest: largest ratio of a pair.
        seconds: median of the way itself, for one unit of work.
        verdict: what the interval says of the way; "no difference shown" where it holds 1.
        peak_bytes: memory that a run took at its peak beyond what was held before; None if not measured.
    """

    way: str
    ratio: float
    low: float | None
    high: float | None
    coverage: float | None
    lowest: float
    highest: float
    seconds: float
    verdict: Verdict
    peak_bytes: int | None = None

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.ratio:.3f} ({interval})"


class Timing(Config):
    """A comparison and everything that it was computed from.

    Attributes:
        name: what was timed.
        baseline: the way that the others are compared with.
        ratio_of: "time" of a way over that of the baseline, or "speed" (the inverse).
        unit: of work, such as "token".
        work_per_run: units in a run.
        repeats: runs of each way that count.
        ratios: of the ways but the baseline, in their order.
        noise: the baseline against itself, run as if it were another way; None if not asked for.
        baseline_seconds: median, for a unit of work.
        baseline_peak_bytes: as in Ratio.
        seconds: of each run, for a unit of work, in the order of repeats, by way.
        orders: in which the ways ran in each repeat.
        cautions: what the numbers cannot bear.
        settings: of the caller.
        machine: processor and cores, or accelerator.
        threads: that torch computes with.
        versions: of what matters.
        commit: of the code; "+" marks changes since.
        finished: date and time, UTC.
    """

    name: str
    baseline: str
    ratio_of: Literal["time", "speed"]
    unit: str
    work_per_run: float
    repeats: int
    ratios: tuple[Ratio, ...]
    noise: Ratio | None
    baseline_seconds: float
    baseline_peak_bytes: int | None = None
    seconds: dict[str, tuple[float, ...]]
    orders: tuple[tuple[str, ...], ...]
    cautions: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    machine: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    finished: str

    def ratio(self, way: str) -> Ratio:
        """That of a way."""
        return next(ratio for ratio in self.ratios if ratio.way == way)


def compare_speed(
    name: str,
    ways: Mapping[str, Callable[[X], Y]],
    inputs: Callable[[int], X],
    *,
    agree: Callable[[Y, Y], str | None],
    baseline: str,
    twins: Mapping[str, Callable[[X], Y]] | None = None,
    repeats: int = 9,
    work_per_run: float = 1.0,
    unit: str = "run",
    ratio_of: Literal["time", "speed"] = "time",
    with_noise: bool = False,
    with_memory: bool = False,
    before_each: Callable[[], None] = lambda: None,
    synchronize: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    settings: Mapping[str, Any] | None = None,
    report: Progress = lambda stage, done, total: None,
) -> Timing:
    """Time ways of doing one thing, side by side.

    Args:
        name: what is timed.
        ways: by name, two or more; each takes an input and gives its answer.
        inputs: from the number of a repeat (0 is the warm-up) to a fresh input, which no way may change.
        agree: takes the right answer and that of a way; gives the reason why they do not agree, or None. An
            AssertionError is a reason too.
        baseline: the way that the others are compared with, and whose answer is the right one.
        twins: for ways that are meant to give another answer than the baseline: a slow and obvious way that gives the
            right one, run once on the warm-up input.
        repeats: runs of each way that count.
        work_per_run: units of work in a run.
        unit: their name, such as "token".
        ratio_of: "time" of a way over that of the baseline, or "speed" of a way over that of the baseline.
        with_noise: whether the baseline also runs as if it were another way: how far it is from itself is how far
            ratios are from 1 by chance on this machine now.
        with_memory: whether to measure the memory of each way, in a run of its own that is not timed.
        before_each: called before each run, not timed: to empty caches by which one way would profit from another.
        synchronize: waits until all work is done; None waits for the accelerator, if there is one.
        clock: gives seconds.
        settings: kept in the record.
        report: told of progress.

    Raises:
        InputError: for too few repeats or ways, or ways that do not agree.
    """
    import torch

    if repeats < FEWEST_REPEATS:
        raise InputError(f"at least {FEWEST_REPEATS} repeats are needed for a median, got {repeats}")
    if len(ways) < 2 or baseline not in ways or AGAIN in ways:
        raise InputError(f"at least two ways with the baseline {baseline!r} among them are needed, got {list(ways)}")
    wait = synchronize or _wait_for_accelerator
    running = {**ways, **({AGAIN: ways[baseline]} if with_noise else {})}
    _warm_up(name, running, inputs(0), agree, baseline, twins or {}, before_each)
    wait()
    seconds: dict[str, list[float]] = {way: [] for way in running}
    orders = [_order(list(running), repeat) for repeat in range(repeats)]
    report(name, 0, repeats)
    for repeat, order in enumerate(orders, 1):
        x = inputs(repeat)
        for way in order:
            before_each()
            wait()
            start = clock()
            running[way](x)
            wait()
            seconds[way].append((clock() - start) / work_per_run)
        report(name, repeat, repeats)
    peaks = (
        {way: peak_memory(partial(work, inputs(0)), before_each) for way, work in ways.items()} if with_memory else {}
    )
    found = {
        way: _ratio(way, seconds[way], seconds[baseline], ratio_of, peaks.get(way))
        for way in running
        if way != baseline
    }
    noise = found.pop(AGAIN, None)
    cautions = []
    if repeats < FEWEST_FOR_INTERVAL:
        cautions.append(f"{repeats} repeats are too few for a 95 % interval; {FEWEST_FOR_INTERVAL} give one")
    if noise is not None and noise.verdict in ("faster", "slower"):
        cautions.append(f"the baseline against itself gives {noise}: the machine was not steady")
    return Timing(
        name=name,
        baseline=baseline,
        ratio_of=ratio_of,
        unit=unit,
        work_per_run=work_per_run,
        repeats=repeats,
        ratios=tuple(found.values()),
        noise=noise,
        baseline_seconds=statistics.median(seconds[baseline]),
        baseline_peak_bytes=peaks.get(baseline),
        seconds={way: tuple(of_way) for way, of_way in seconds.items()},
        orders=tuple(orders),
        cautions=tuple(cautions),
        settings=dict(settings or {}),
        machine=machine(),
        threads=torch.get_num_threads(),
        versions=versions(),
        commit=commit(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def median_interval(values_R: Sequence[float], level: float = LEVEL) -> tuple[float, float, float] | None:
    """Ends of the interval of the median, and the probability that it holds the true one; None with too few values.

    The k-th smallest and the k-th largest value, with the largest k for which the probability that the median lies
    between them, by the binomial distribution of the number of values below it, is at least the level. Exact for any
    continuous distribution.

    Source: the interval of the sign test, Thompson (1936).
    """
    number = len(values_R)
    missed, k = 0.0, 0  # probability of a median outside, beyond one end
    while 2 * (missed + math.comb(number, k) / 2**number) <= 1 - level:
        missed += math.comb(number, k) / 2**number
        k += 1
    if k == 0:
        return None
    ordered_R = sorted(values_R)
    return ordered_R[k - 1], ordered_R[number - k], 1 - 2 * missed


def peak_memory(work: Callable[[], object], before: Callable[[], None] = lambda: None) -> int | None:
    """Bytes that a call took at its peak, beyond what was held before it; None where this cannot be found out.

    On a processor this is the growth of the resident memory, so what is reused of memory freed earlier is not seen.
    """
    import torch

    before()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - held
    try:
        held = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5 sets the peak to what is held now
        work()
        return max(0, _resident("VmHWM") - held)
    except (OSError, TypeError):
        return None


def _resident(key: str) -> int:
    """Memory of this process on Linux."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="ignore"))
    return 1024 * int(found[1])  # type: ignore[index]


def _wait_for_accelerator() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _order(ways: list[str], repeat: int) -> tuple[str, ...]:
    turn = repeat // 2 % len(ways)
    turned = (*ways[turn:], *ways[:turn])
    return turned[::-1] if repeat % 2 else turned


def _warm_up(
    name: str,
    ways: Mapping[str, Callable[[X], Y]],
    x: X,
    agree: Callable[[Y, Y], str | None],
    baseline: str,
    twins: Mapping[str, Callable[[X], Y]],
    before_each: Callable[[], None],
) -> None:
    """Run every way once, and stop unless each gives the right answer."""

    def answer(work: Callable[[X], Y]) -> Y:
        before_each()
        return work(x)

    right = answer(ways[baseline])
    for way, work in ways.items():
        if way == baseline:
            continue
        try:
            reason = agree(answer(twins[way]) if way in twins else right, answer(work))
        except AssertionError as error:
            reason = " ".join(str(error).split()) or "an assertion failed"
        if reason:
            raise InputError(
                f"{name}: only ways that do the same are timed, but {way!r} does not agree with "
                f"{'its twin' if way in twins else repr(baseline)}: {reason}"
            )


def _ratio(
    way: str, mine_R: list[float], base_R: list[float], ratio_of: Literal["time", "speed"], peak_bytes: int | None
) -> Ratio:
    pairs_R = [(b / a if ratio_of == "speed" else a / b) for a, b in zip(mine_R, base_R, strict=True)]
    interval = median_interval(pairs_R)
    verdict: Verdict = "too few repeats to tell"
    if interval is not None:
        low, high, _ = interval
        is_faster = high < 1 if ratio_of == "time" else low > 1
        verdict = "no difference shown" if low <= 1 <= high else "faster" if is_faster else "slower"
    return Ratio(
        way=way,
        ratio=statistics.median(pairs_R),
        low=interval and interval[0],
        high=interval and interval[1],
        coverage=interval and interval[2],
        lowest=min(pairs_R),
        highest=max(pairs_R),
        seconds=statistics.median(mine_R),
        verdict=verdict,
        peak_bytes=peak_bytes,
    )
