"""The engine of one process gives the texts of Model.generate, to many at once, and lets go of what is closed."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import factorlm as fl
from factorlm.errors import FactorlmError, InputError
from factorlm.factors import bind
from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store, read_manifest
from factorlm.inference import Model, Particles, Sampling
from factorlm.models import CausalLM
from factorlm.serving.engine import LocalEngine
from factorlm.serving.jobs import Dose, Job, OverloadedError, Piece, Recipe


@pytest.fixture
def served(tiny_lm: CausalLM) -> Model:
    return Model(tiny_lm, tiny_lm)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A factor that can be named."""
    settings = LexiconSettings(phrases={"good": 2.0, "bad": -1.0})
    return Store(tmp_path / "factors").save(Manifest(name="kind", settings=settings))


@asynccontextmanager
async def running(engine: LocalEngine) -> AsyncIterator[LocalEngine]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close(5.0)


def job_of(engine: LocalEngine, text: str, **changes: object) -> Job:
    plain = Job((tuple(engine.encode(text)),), (text,), n=1, max_tokens=8, seed=3, sampling=Sampling())
    return replace(plain, **changes)  # type: ignore[arg-type]


async def all_of(engine: LocalEngine, job: Job) -> list[Piece]:
    return [piece async for piece in engine.submit(job)]


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))  # type: ignore[arg-type]


def texts_of(pieces: list[Piece], num_rows: int) -> list[str]:
    return ["".join(p.text for p in pieces if p.row == row) for row in range(num_rows)]


def test_many_jobs_at_once_write_what_each_would_alone(served: Model, words: Path) -> None:
    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny", most_rows=5)) as engine:
            jobs = [
                job_of(
                    engine, text, n=n, seed=seed, top=2,
                    recipe=Recipe((Dose("kind", words, exponent),) if exponent else ()),
                )
                for seed, (text, n, exponent) in enumerate(
                    [("the good", 2, 0.0), ("a bad", 1, 1.5), ("in the", 3, -1.0), ("good", 1, 0.7), ("tea", 2, 0.0)]
                )
            ]  # fmt: skip
            found = await asyncio.gather(*(all_of(engine, job) for job in jobs))
            for job, pieces in zip(jobs, found, strict=True):
                model = served
                for dose in job.recipe.doses:
                    model = model * fl.factor(str(dose.folder)) ** dose.exponent
                want = model.generate(job.prompt_texts, n=job.n, max_tokens=8, seed=job.seed)
                assert texts_of(pieces, job.n) == [response.text for response in want]
                for row, response in enumerate(want):
                    mine = [p for p in pieces if p.row == row]
                    assert tuple(p.token for p in mine) == response.token_ids
                    assert math.fsum(p.log_prob for p in mine) == pytest.approx(response.log_prob, abs=1e-2)
                    assert [bool(p.finish_reason) for p in mine] == [False] * (len(mine) - 1) + [True]
                    assert all(len(p.top) == 2 for p in mine)
            assert engine.load()["rows_active"] == 0

    run(work)


def test_what_is_written_whole_comes_with_what_is_known_of_it(served: Model, words: Path) -> None:
    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny")) as engine:
            recipe = Recipe((Dose("kind", words, 1.0),))
            job = job_of(engine, "the", recipe=recipe, particles=Particles(number=4), explain=True)
            pieces = await all_of(engine, job)
            want = (served * fl.factor(str(words))).generate(
                "the", max_tokens=8, seed=3, particles=Particles(number=4), explain=True
            )[0]
            assert tuple(p.token for p in pieces) == want.token_ids
            assert texts_of(pieces, 1) == [want.text]
            assert pieces[-1].extra is not None
            assert pieces[-1].extra["log_prob"] == pytest.approx(want.log_prob, abs=1e-3)
            assert "particles" in pieces[-1].extra
            assert dict(pieces[0].pushes).keys() == {"kind"}

    run(work)


def test_languages_and_explanations(served: Model) -> None:
    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny")) as engine:
            schema = json.dumps({"type": "string", "enum": ["good", "bad"]})
            for language, allowed in (
                (("choice", json.dumps(["good", "bad"])), {"good", "bad"}),
                (("regex", "good|bad"), {"good", "bad"}),
                (("json_schema", schema), {'"good"', '"bad"'}),
            ):
                if language[0] == "json_schema":
                    continue  # the tiny vocabulary has no quotation mark
                job = job_of(engine, "the", n=3, max_tokens=30, recipe=Recipe(language=language), explain=True)
                pieces = await all_of(engine, job)
                assert set(texts_of(pieces, 3)) <= allowed
                for piece in pieces:
                    assert piece.base_log_prob is not None
                    assert piece.normalizer is not None
                    total = piece.base_log_prob + sum(value for _, value in piece.pushes) - piece.normalizer
                    assert total == pytest.approx(piece.log_prob, abs=1e-3)
                    assert {name for name, _ in piece.without} == {"", *(name for name, _ in piece.pushes)}

    run(work)


def test_closing_a_job_frees_its_places_at_once(served: Model) -> None:
    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny", most_rows=2)) as engine:
            endless = job_of(engine, "the", n=2, max_tokens=200, sampling=Sampling(top_k=1))
            ban_end = replace(endless, recipe=Recipe(language=("regex", "[a-z ]{400}")))
            ticket = engine.submit(ban_end)
            await anext(ticket)
            other = asyncio.create_task(all_of(engine, job_of(engine, "good", max_tokens=4)))
            await asyncio.sleep(0.05)
            assert engine.load()["rows_active"] == 2
            assert not other.done()
            await ticket.aclose()
            assert len(await other) >= 1
            with pytest.raises(StopAsyncIteration):
                await anext(ticket)
            for _ in range(100):
                if engine.load()["rows_active"] == 0:
                    break
                await asyncio.sleep(0.01)
            assert engine.load()["rows_active"] == 0
            assert engine._owners == {}

    run(work)


def test_what_comes_at_the_same_moment_is_read_in_one_pass(served: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factorlm.serving.engine.GATHER_S", 5.0)

    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny")) as engine:
            arrive = engine.expect()  # a third one, that comes to nothing
            jobs = [job_of(engine, text, max_tokens=1) for text in ("the good", "a bad")]
            writing = [asyncio.create_task(all_of(engine, job)) for job in jobs]
            await asyncio.sleep(0.2)
            assert engine.load()["rows_waiting"] == 2
            arrive()
            arrive()
            assert [len(pieces) for pieces in await asyncio.gather(*writing)] == [1, 1]
            assert engine.load()["steps"] == 1
            assert engine._coming == {}

    run(work)


def test_a_request_that_takes_long_to_come_holds_nobody_up(served: Model) -> None:
    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny")) as engine:
            engine.expect()
            assert await asyncio.wait_for(all_of(engine, job_of(engine, "the good")), 20)

    run(work)


def test_too_much_is_refused_and_a_closing_engine_finishes_what_it_began(served: Model) -> None:
    async def work() -> None:
        engine = LocalEngine(served, model_id="tiny", most_rows=1, most_waiting=2)
        await engine.start()
        long = job_of(engine, "the", max_tokens=60, recipe=Recipe(language=("regex", "[a-z ]{90}")))
        tasks = [asyncio.create_task(all_of(engine, long)) for _ in range(3)]
        for _ in range(500):
            if (engine.load()["rows_active"], engine.load()["rows_waiting"]) == (1, 2):
                break
            await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError) as refused:
            engine.submit(long)
        assert refused.value.retry_after_s >= 1
        closing = asyncio.create_task(engine.close(30.0))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="shutting down"):
            engine.submit(long)
        found = await asyncio.gather(*tasks)
        assert [pieces[-1].finish_reason for pieces in found] == ["length"] * 3
        await closing

    run(work)


def test_what_cannot_be_done_is_said_before_anything_slow(served: Model, words: Path) -> None:
    engine = LocalEngine(served, model_id="tiny", most_rows=4)
    with pytest.raises(InputError, match="at least one character"):
        engine.encode("")
    with pytest.raises(InputError, match="reads at most"):
        engine.check(job_of(engine, "the", max_tokens=10_000))
    with pytest.raises(InputError, match="at most 4 texts"):
        engine.check(job_of(engine, "the", n=5))
    with pytest.raises(FactorlmError):
        engine.check(job_of(engine, "the", recipe=Recipe(language=("regex", "("))))
    with pytest.raises(InputError, match="no chat template"):
        engine.encode_chat([{"role": "user", "content": "hi"}])


def test_scores_are_those_of_the_model(served: Model, words: Path) -> None:
    async def work() -> None:
        async with running(LocalEngine(served, model_id="tiny")) as engine:
            found = await engine.score(["good tea", "bad"], "the ", Recipe((Dose("kind", words, 0.5),)))
            want = (served * fl.factor(str(words)) ** 0.5).score(["good tea", "bad"], prompt="the ")
            for mine, other in zip(found, want, strict=True):
                assert mine.log_prob == pytest.approx(other.log_prob, abs=1e-4)
                assert mine.log_ratios == pytest.approx(other.log_ratios, abs=1e-4)

    run(work)


def test_the_card_names_the_factor(words: Path, tiny_lm: CausalLM) -> None:
    assert read_manifest(words).name == "kind"
    assert bind(fl.factor(str(words)), tiny_lm) is bind(fl.factor(str(words)), tiny_lm)
