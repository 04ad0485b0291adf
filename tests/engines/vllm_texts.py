"""Run by test_vllm.py in an interpreter that has vLLM: a hundred requests on both engines, and what a server asks.

Prints one JSON object a line.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factorlm.engines.vllm.engine import VllmEngine
from factorlm.engines.vllm.settings import VllmSettings
from factorlm.errors import FactorlmError
from factorlm.factors.store import SHELF
from factorlm.inference import Model, Sampling, load
from factorlm.serving.jobs import Dose, Job, OverloadedError, Piece, Recipe

TEXTS = (
    "The weather today is", "My favourite film was", "Dear Sir or Madam,", "The committee decided", "Once upon a time",
    "In the kitchen there was", "The match ended", "I would like to ask", "Scientists have found", "Nobody knew why",
)  # fmt: skip
ASKS: tuple[Mapping[str, float], ...] = (
    {}, {"positive": 2.5}, {"archaic": 3.0}, {"toxic": -2.0, "polite": 2.0}, {"safe": 1.0}, {"clean": 1.0, "news": 2.0},
    {"sports": 2.0, "legal": -1.0, "simple": 1.5}, {"culinary": 1.0}, {"hedged": 1.0, "confident": -0.5},
    {"fantasy": 2.0, "nature": 0.7},
)  # fmt: skip
NUM_TOKENS = 24
GREEDY = Sampling(temperature=0.0)
NEAR_TIE = 1e-3  # nats


def say(**found: Any) -> None:
    print("SAID " + json.dumps(found), flush=True)


def recipe_of(ask: Mapping[str, float]) -> Recipe:
    return Recipe(tuple(Dose(name, SHELF / name, exponent) for name, exponent in ask.items()))


def job_of(engine: VllmEngine, text: str, ask: Mapping[str, float], **more: Any) -> Job:
    usual = {"n": 1, "max_tokens": NUM_TOKENS, "seed": 0, "sampling": GREEDY, "recipe": recipe_of(ask)}
    return Job((tuple(engine.encode(text)),), (text,), **{**usual, **more})


async def written(engine: VllmEngine, job: Job) -> list[Piece]:
    engine.check(job)
    return [piece async for piece in engine.submit(job)]


async def equal(engine: VllmEngine, model: Model) -> None:
    asks = [ASKS[n % len(ASKS)] for n in range(100)]
    texts = [TEXTS[(n // len(ASKS)) % len(TEXTS)] for n in range(100)]
    jobs = [job_of(engine, text, ask, top=2) for text, ask in zip(texts, asks, strict=True)]
    found = await asyncio.gather(*(written(engine, job) for job in jobs))
    plain = {texts[n]: tuple(piece.token for piece in found[n]) for n in range(100) if not asks[n]}
    for ask in ASKS:
        mine = [n for n in range(100) if asks[n] is ask]
        wanted = model.generate([texts[n] for n in mine], max_tokens=NUM_TOKENS, sampling=GREEDY, exponents=ask)
        for n, theirs in zip(mine, wanted, strict=True):
            pieces = found[n]
            tokens = tuple(piece.token for piece in pieces)
            place = next((t for t, (a, b) in enumerate(zip(tokens, theirs.token_ids)) if a != b), None)  # noqa: B905
            gap = None if place is None else pieces[place].top[0][2] - pieces[place].top[1][2]
            say(
                part="equal", request=n, is_equal=tokens == theirs.token_ids, gap=gap,
                is_plain=tokens == plain[texts[n]],
                is_text_equal="".join(piece.text for piece in pieces) == theirs.text,
                reason=pieces[-1].finish_reason, wanted_reason=theirs.finish_reason,
                difference=abs(sum(piece.log_prob for piece in pieces) - theirs.log_prob),
            )  # fmt: skip


async def asked(engine: VllmEngine, model: Model) -> None:
    """What a server does with an engine."""
    warm = Sampling(temperature=0.8, top_k=20)
    job = job_of(engine, TEXTS[0], ASKS[1], n=3, seed=7, sampling=warm, top=3)
    first, again = await written(engine, job), await written(engine, job)
    by_row = [[p.token for p in first if p.row == row] for row in range(3)]
    say(
        part="seeds", is_same=sorted((p.row, p.token) for p in first) == sorted((p.row, p.token) for p in again),
        num_texts=len({tuple(tokens) for tokens in by_row}), lengths=[len(tokens) for tokens in by_row],
        top=[len(p.top) for p in first],
    )  # fmt: skip
    stop = Sampling(temperature=0.0, stop=("the",))
    pieces = await written(engine, job_of(engine, TEXTS[3], {}, sampling=stop, max_tokens=60))
    say(part="stop", text="".join(p.text for p in pieces), reason=pieces[-1].finish_reason)
    choice = Recipe(recipe_of(ASKS[1]).doses, language=("choice", json.dumps(["yes, it is", "no, never"])))
    pieces = await written(engine, job_of(engine, TEXTS[0], {}, recipe=choice))
    say(part="choice", text="".join(p.text for p in pieces), reason=pieces[-1].finish_reason)
    messages = [{"role": "user", "content": "Say hello."}]
    say(part="chat", is_same=engine.encode_chat(messages) == model.lm.encode_message("Say hello."))
    ticket = engine.submit(job_of(engine, TEXTS[0], {}, n=4, max_tokens=400))
    await anext(ticket)
    during = engine.load()["rows_active"]
    await ticket.aclose()
    await asyncio.sleep(0.5)
    say(part="cancel", during=during, after=engine.load()["rows_active"], left=engine.llm.get_num_unfinished_requests())
    tickets = []
    try:
        for _ in range(50):
            tickets.append(engine.submit(job_of(engine, TEXTS[0], {}, n=4)))
        say(part="overload", is_refused=False)
    except OverloadedError as error:
        say(part="overload", is_refused=True, after_s=error.retry_after_s)
    for ticket in tickets:
        await ticket.aclose()
    (score,) = await engine.score(["It is good."], TEXTS[0], recipe_of(ASKS[1]))
    say(part="score", log_prob=score.log_prob, rows=engine.load()["rows_active"])


def refused(engine: VllmEngine, place: Path) -> None:
    """Complaints before anything slow."""
    cases = {
        "explain": {"explain": True},
        "guides": {"recipe": Recipe(guides=(("happy", 1.0),))},
        "priors": {"recipe": Recipe(prior=("p", place, "bayes"))},
        "memories": {"recipe": Recipe(memories=(("m", place, 0.1),))},
        "typical_p": {"sampling": Sampling(typical_p=0.5)},
        "reads at most": {"max_tokens": 100_000},
        "no factor": {"recipe": Recipe((Dose("outside", place, 1.0),))},
    }
    for words, more in cases.items():
        try:
            engine.check(job_of(engine, TEXTS[0], {}, **more))
            say(part="refused", words=words, message="")
        except FactorlmError as error:
            say(part="refused", words=words, message=str(error))


async def main(place: Path) -> None:
    settings = VllmSettings(dtype="float32", max_tokens=1024, most_rows=16, most_waiting=100, cache_gib=1)
    engine = VllmEngine(settings, make_piece=Piece, overloaded=OverloadedError)
    await engine.start()
    try:
        model = load(dtype="float32", device="cpu")
        await equal(engine, model)
        await asked(engine, model)
        refused(engine, place)
    finally:
        await engine.close(5.0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
