"""Texts that come and go, each with factors of its own, come out as they would alone."""

import math
import random
from collections.abc import Callable

import pytest
import torch

from factorlm.algebra import Factor, Interpolation, LocalProduct, Power, Product, State
from factorlm.errors import DeadEndError, InputError
from factorlm.factors import bind, grammar, lexicon, prompt
from factorlm.factors.head import Head
from factorlm.inference import Sampling
from factorlm.inference.continuous import CHUNK_TOKENS, Batcher
from factorlm.inference.draw import generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.reading import read
from factorlm.inference.writing import Drawn, Writing
from factorlm.models import CausalLM
from factorlm.text import TextStream

MakeHead = Callable[..., Head]
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0),
    Sampling(top_p=0.8),
    Sampling(repetition_penalty=1.3, stop=("e",)),
)


def rows_for(prompt_ids: list[int], n: int, seed: int, sampling: Sampling) -> list[Row]:
    return [Row(list(prompt_ids), generator_of(seed, prompt_ids, k), TextStream(sampling.stop)) for k in range(n)]


def compositions(lm: CausalLM, make_head: MakeHead) -> dict[str, Factor]:
    heads = [make_head(rank, seed) for rank, seed in ((0, 1), (2, 2), (0, 3))]
    words = bind(lexicon({"good": 1.5, "bad": -1.0}), lm)
    ban = bind(lexicon(["the", "in"], ban=True), lm)
    pattern = bind(grammar(regex="(good|bad) [a-e]{2,9}"), lm)
    return {
        "plain": lm,
        "one head": Product((lm, heads[0])),
        "two heads": Product((lm, Power(heads[0], 1.5), Power(heads[1], -0.7))),
        "another head": Product((lm, Power(heads[2], 2.0))),
        "words": Product((lm, Power(words, 1.2), Power(heads[1], 0.5))),
        "ban": Product((lm, ban)),
        "pattern": Product((lm, heads[2], pattern)),
        "instruction": Product((lm, Power(bind(prompt("be good"), lm), 0.8), heads[0])),
        "interpolation": Interpolation((LocalProduct(Product((lm, heads[0]))), lm), (0.4, 0.6)),
    }


def alone(factor: Factor, rows: list[Row], max_tokens: int, sampling: Sampling) -> list[Row]:
    for _ in sample_local(factor, rows, max_tokens=max_tokens, sampling=sampling):
        pass
    return rows


def run(batcher: Batcher, most_steps: int = 2000) -> list[Drawn]:
    drawn = []
    for _ in range(most_steps):
        if batcher.is_idle:
            return drawn
        drawn += batcher.step()
    raise AssertionError("it does not end")


def same(got: list[Row], want: list[Row]) -> None:
    for mine, other in zip(got, want, strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.finish_reason == other.finish_reason
        assert mine.stream.text == other.stream.text
        assert mine.log_probs == pytest.approx(other.log_probs, abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_texts_that_come_and_go_come_out_as_alone(tiny_lm: CausalLM, make_head: MakeHead, seed: int) -> None:
    rng = random.Random(seed)
    made = compositions(tiny_lm, make_head)
    batcher = Batcher(tiny_lm, most_rows=7)
    writings: list[tuple[Writing, list[Row]]] = []
    drawn: list[Drawn] = []
    for number in range(24):
        factor, sampling = rng.choice(list(made.values())), rng.choice(SAMPLINGS)
        prompt_ids = [0, *(rng.randrange(2, 50) for _ in range(rng.choice([1, 4, 17, 40])))]
        n, most = rng.randint(1, 3), rng.randint(1, 14)
        want = alone(factor, rows_for(prompt_ids, n, number, sampling), most, sampling)
        writing = Writing(factor, rows_for(prompt_ids, n, number, sampling), most, sampling)
        writings.append((writing, want))
        batcher.add(writing)
        for _ in range(rng.randint(0, 4)):
            drawn += batcher.step()
            assert batcher.num_rows <= 7
    drawn += run(batcher)
    for writing, want in writings:
        assert writing.error is None
        same(writing.rows, want)
        pieces = [[d for d in drawn if d.writing is writing and d.row == row] for row in range(len(want))]
        for row, mine in zip(writing.rows, pieces, strict=True):
            assert [d.token for d in mine] == row.token_ids
            assert "".join(d.text for d in mine) == row.stream.text
    assert batcher.num_drawn == sum(len(row.token_ids) for writing, _ in writings for row in writing.rows)


def test_texts_with_different_factors_share_one_pass(fresh_lm: CausalLM, make_head: MakeHead) -> None:
    heads = [make_head(0, seed) for seed in range(3)]
    heads = [Head(head.name, head.weights, fresh_lm) for head in heads]
    passes = []
    layers = fresh_lm.run_layers

    def counted(token_BT: torch.Tensor, *args: object, **kwargs: object) -> object:
        passes.append(token_BT.shape[0])
        return layers(token_BT, *args, **kwargs)  # type: ignore[arg-type]

    fresh_lm.run_layers = counted  # type: ignore[method-assign, assignment]
    batcher = Batcher(fresh_lm)
    passes.clear()
    sampling = Sampling(temperature=0)
    for seed, head in enumerate(heads):
        factor = Product((fresh_lm, Power(head, 0.5 + seed)))
        batcher.add(Writing(factor, rows_for([0, 5, 6, 7, 8 + seed], 1, seed, sampling), 6, sampling))
    run(batcher)
    assert max(passes) == 3
    assert len(passes) <= 7  # one for the prompts, and one for each further token of the longest


def test_a_step_may_let_nothing_join(tiny_lm: CausalLM) -> None:
    sampling = Sampling()
    batcher = Batcher(tiny_lm)
    first, second = (Writing(tiny_lm, rows_for([0, 5, 6], 1, seed, sampling), 6, sampling) for seed in (1, 2))
    batcher.add(first)
    batcher.step()
    batcher.add(second)
    assert {d.writing for d in batcher.step(hold=True)} == {first}
    assert {d.writing for d in batcher.step()} == {second}
    run(batcher)
    for writing, seed in ((first, 1), (second, 2)):
        same(writing.rows, alone(tiny_lm, rows_for([0, 5, 6], 1, seed, sampling), 6, sampling))


def test_a_long_prompt_is_read_in_pieces_while_others_go_on(make_head: MakeHead, tiny_folder: object) -> None:
    from factorlm.models.loading import read_model

    lm = read_model(str(tiny_folder), dtype="float32", device="cpu")
    lm.model.config.max_position_embeddings = 4 * CHUNK_TOKENS
    rng = random.Random(0)
    long_ids = [0, *(rng.randrange(2, 50) for _ in range(2 * CHUNK_TOKENS + 30))]
    sampling = Sampling()
    batcher = Batcher(lm)
    short = Writing(lm, rows_for([0, 5, 6], 1, 1, sampling), 40, sampling)
    long = Writing(lm, rows_for(long_ids, 2, 2, sampling), 5, sampling)
    batcher.add(short)
    batcher.step()
    batcher.add(long)
    drawn = run(batcher)
    first = next(k for k, d in enumerate(drawn) if d.writing is long)
    assert sum(d.writing is short for d in drawn[:first]) >= 2, "the short text waited for all of the long prompt"
    assert {d.row for d in drawn if d.writing is long} == {0, 1}
    same(short.rows, alone(lm, rows_for([0, 5, 6], 1, 1, sampling), 40, sampling))
    same(long.rows, alone(lm, rows_for(long_ids, 2, 2, sampling), 5, sampling))


def test_what_is_cancelled_is_gone_and_disturbs_nobody(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    made = compositions(tiny_lm, make_head)
    sampling = Sampling()
    for name in ("words", "instruction"):
        batcher = Batcher(tiny_lm)
        kept = Writing(made["two heads"], rows_for([0, 9, 9], 2, 1, sampling), 12, sampling)
        gone = Writing(made[name], rows_for([0, 7, 8, 9], 2, 2, sampling), 12, sampling)
        waiting = Writing(made["plain"], rows_for([0, 7], 1, 3, sampling), 12, sampling)
        batcher.add(gone)
        batcher.add(kept)
        for _ in range(4):
            batcher.step()
        batcher.add(waiting)
        batcher.cancel(gone)
        batcher.cancel(waiting)
        drawn = run(batcher)
        assert {d.writing for d in drawn} == {kept}
        same(kept.rows, alone(made["two heads"], rows_for([0, 9, 9], 2, 1, sampling), 12, sampling))


class Broken(Factor):
    """Weighs everything alike, and breaks after some tokens."""

    name = "broken"

    def __init__(self, lm: CausalLM, breaks_at: int) -> None:
        self.tokens, self.breaks_at = lm.vocabulary, breaks_at

    @property
    def vocabulary(self):  # noqa: ANN201
        return self.tokens

    def start(self, prefix_BT: torch.Tensor) -> State:
        if self.breaks_at == 0:
            raise RuntimeError("broken at once")
        return State(torch.zeros(prefix_BT.shape[0], self.tokens.size), torch.zeros(prefix_BT.shape[0]))

    def extend(self, state: State, token_B: torch.Tensor) -> State:
        if float(state.memory.max()) + 1 >= self.breaks_at:
            raise RuntimeError("broken later")
        return State(torch.zeros(len(token_B), self.tokens.size), state.memory + 1)


@pytest.mark.parametrize("breaks_at", [0, 1, 3])
def test_a_factor_that_breaks_ends_its_own_texts_only(tiny_lm: CausalLM, breaks_at: int) -> None:
    sampling = Sampling()
    ban_all = bind(grammar(regex="zz"), tiny_lm)
    batcher = Batcher(tiny_lm)
    good = Writing(tiny_lm, rows_for([0, 5], 1, 1, sampling), 10, sampling)
    bad = Writing(Product((tiny_lm, Broken(tiny_lm, breaks_at))), rows_for([0, 5, 6], 2, 2, sampling), 10, sampling)
    dead = Writing(
        Product((tiny_lm, ban_all, bind(lexicon(["zz"], ban=True, whole_word=False), tiny_lm))),
        rows_for([0, 5, 6], 1, 2, sampling), 10, sampling,
    )  # fmt: skip
    for writing in (bad, good, dead):
        batcher.add(writing)
    drawn = run(batcher)
    assert isinstance(bad.error, RuntimeError)
    assert isinstance(dead.error, DeadEndError)
    assert sum(d.row < 0 for d in drawn) == 2
    same(good.rows, alone(tiny_lm, rows_for([0, 5], 1, 1, sampling), 10, sampling))


def test_what_can_never_fit_is_refused_and_the_queue_waits_for_room(tiny_lm: CausalLM) -> None:
    sampling = Sampling()
    batcher = Batcher(tiny_lm, most_rows=2, most_places=60)
    with pytest.raises(InputError, match="at most 2 texts"):
        batcher.add(Writing(tiny_lm, rows_for([0], 3, 0, sampling), 4, sampling))
    with pytest.raises(InputError, match="do not fit into 60 places"):
        batcher.add(Writing(tiny_lm, rows_for([0] * 30, 2, 0, sampling), 4, sampling))
    with pytest.raises(InputError, match="at least one"):
        batcher.add(Writing(tiny_lm, rows_for([0], 1, 0, sampling), 0, sampling))
    for seed in range(3):
        batcher.add(Writing(tiny_lm, rows_for([0] * 20, 1, seed, sampling), 20, sampling))
    assert (batcher.num_waiting, batcher.num_rows) == (3, 0)
    batcher.step()
    assert (batcher.num_waiting, batcher.num_rows) == (2, 1)  # two of them would take 80 places
    run(batcher)


def test_alternatives_and_pushes_are_those_of_a_reading(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    for name in ("plain", "two heads", "words"):
        factor = compositions(tiny_lm, make_head)[name]
        sampling = Sampling()
        writing = Writing(factor, rows_for([0, 5, 9], 1, 4, sampling), 8, sampling, top=3, explain=True)
        batcher = Batcher(tiny_lm)
        batcher.add(writing)
        drawn = run(batcher)
        row = writing.rows[0]
        reading = read(factor, torch.tensor([row.prompt_ids]), torch.tensor([row.token_ids]), with_contributions=True)
        assert reading.contribution_BTK is not None
        assert reading.normalizer_BT is not None
        for t, d in enumerate(drawn):
            assert d.pushes is not None
            assert d.pushes.base_log_prob == pytest.approx(float(reading.base_log_prob_BT[0, t]), abs=1e-3)
            assert d.pushes.normalizer == pytest.approx(float(reading.normalizer_BT[0, t]), abs=2e-3)
            want = dict(zip(reading.names, reading.contribution_BTK[0, t].tolist(), strict=True))
            assert d.pushes.contributions == pytest.approx(want, abs=2e-3)
            assert len(d.top) == 3
            assert [p for _, p in d.top] == sorted((p for _, p in d.top), reverse=True)
            for _, shown in d.pushes.without.items():
                assert sum(math.exp(p) for _, p in shown) < 1 + 1e-5
        if name == "two heads":  # without one head, the other is left
            without = drawn[0].pushes.without["head0-1"]  # type: ignore[union-attr]
            left = LocalProduct(Product((tiny_lm, Power(make_head(2, 2), -0.7))))
            want_V = left.start(torch.tensor([row.prompt_ids])).log_weight_BV[0]
            assert dict(without) == pytest.approx({t: float(want_V[t]) for t, _ in without}, abs=2e-3)
            assert max(p for _, p in without) == pytest.approx(float(want_V.max()), abs=2e-3)
