"""Factors made side by side: processes with a share of the cores each, which is faster than one with all of them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from factorlm.factors.build import Built
    from factorlm.factors.recipe import Recipe
    from factorlm.models.progress import Report

MOST = 4  # processes unless asked for: each takes about 3 GB


class Order(NamedTuple):
    """What every factor is made with: encoder, folder of data sets, store, seed; whether it replaces any other."""

    model: str
    data: Path
    out: Path
    seed: int
    replace: bool


class Made(NamedTuple):
    """A factor that is done: its name, what became of it, and how many seconds it took."""

    name: str
    built: Built
    seconds: float


def usual_jobs(num_heads: int) -> int:
    """One process for each core, up to MOST and the number of heads; one alone where there is a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, min(_cores(), MOST, num_heads))


def one_by_one(recipes: Sequence[Recipe], order: Order, report: Report) -> Iterator[Made]:
    """Make factors here; yields each when it is done."""
    return (_make(recipe, order, report) for recipe in recipes)


def side_by_side(recipes: Sequence[Recipe], order: Order, jobs: int) -> Iterator[Made]:
    """Make factors in several processes; yields each when it is done.

    An error ends those that have not begun; what is done stays.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, _cores() // jobs)
    with ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(threads,)) as pool:
        running = [pool.submit(_make, recipe, order) for recipe in recipes]
        try:
            for done in as_completed(running):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _make(recipe: Recipe, order: Order, report: Report | None = None) -> Made:
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.factors.build import build
    from factorlm.factors.store import Store
    from factorlm.models.loading import load_model
    from factorlm.models.progress import quiet

    start = time.perf_counter()
    lm = load_model(order.model) if recipe.kind == "head" else None
    built = build(
        lm, recipe, DataFolder(order.data).either, Store(order.out), replace=order.replace, seed=order.seed,
        report=report or quiet,
    )  # fmt: skip
    return Made(recipe.name, built, time.perf_counter() - start)
