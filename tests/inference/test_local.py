"""The local sampler: its law is the enumerated one, and a text does not depend on its batch."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch

from factorlm.algebra import Factor, LocalProduct, Mixture, State, local_product
from factorlm.errors import DeadEndError
from factorlm.factors.head import Head
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Event, Row, sample_local
from factorlm.models import CausalLM
from factorlm.models.table import Table, random_table
from factorlm.text import TextStream, Vocabulary, letters

FALSE_ALARM = 1e-6
PLAIN = Sampling()
ChiSquare = Callable[[Mapping[object, int], Mapping[object, float]], float]
MakeHead = Callable[..., Head]


def table(seed: int, zeros: float = 0.0) -> Table:
    return random_table("ab", 4, torch.Generator().manual_seed(seed), zeros=zeros)


def rows_of(prompts: list[list[int]], seed: int = 0, stops: tuple[str, ...] = (), first_sample: int = 0) -> list[Row]:
    return [
        Row(prompt, generator_of(seed, prompt, first_sample + n), TextStream(stops)) for n, prompt in enumerate(prompts)
    ]


def write(factor: Factor, rows: list[Row], max_tokens: int = 10, sampling: Sampling = PLAIN) -> list[Event]:
    return list(sample_local(factor, rows, max_tokens=max_tokens, sampling=sampling))


COMPOSITIONS: dict[str, Factor] = {
    "a table": table(0),
    "a product": table(1) * table(2) ** 1.5 / table(3),
    "holes": table(4, zeros=0.4) * table(5),
    "a mixture": Mixture((table(6), table(7)), (0.3, 0.7)),
    "rows": table(1) * table(2) ** torch.full((4000,), 0.5),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_texts_are_drawn_with_their_local_probability(name: str, chi_square: ChiSquare) -> None:
    """Fixed seed; a right sampler would fail for one seed in a million."""
    rows = rows_of([[]] * 4000)
    write(COMPOSITIONS[name], rows)
    factor = table(1) * table(2) ** 0.5 if name == "rows" else COMPOSITIONS[name]
    prob = local_product(factor, 4)
    assert chi_square(Counter(tuple(row.token_ids) for row in rows), prob) > FALSE_ALARM
    for row in rows[:50]:
        assert math.exp(sum(row.log_probs)) == pytest.approx(prob[tuple(row.token_ids)], rel=1e-9)
        assert row.finish_reason == "end"


def test_a_sampler_without_the_second_factor_would_be_caught(chi_square: ChiSquare) -> None:
    """The toy can fail: the law of one part is not that of the product."""
    rows = rows_of([[]] * 4000)
    write(table(1), rows)
    assert chi_square(Counter(tuple(row.token_ids) for row in rows), local_product(COMPOSITIONS["a product"], 4)) < 1e-9


def test_truncation_acts_on_the_composition(chi_square: ChiSquare) -> None:
    """At temperature one half a step is the normalised square of the local step."""
    product = LocalProduct(table(1) * table(2))
    rows = rows_of([[]] * 4000)
    write(product, rows, sampling=Sampling(temperature=0.5))
    assert chi_square(Counter(tuple(row.token_ids) for row in rows), local_product(product**2.0, 4)) > FALSE_ALARM
    prob = local_product(product, 4)
    for row in rows[:20]:  # what is reported is the untruncated probability at temperature one
        assert math.exp(sum(row.log_probs)) == pytest.approx(prob[tuple(row.token_ids)], rel=1e-9)


def test_a_row_of_a_table_does_not_depend_on_its_batch() -> None:
    prompts = [[], [0], [1, 0], [], [1]]
    together = rows_of(prompts)
    write(COMPOSITIONS["a product"], together)
    for n, prompt in enumerate(prompts):
        [alone] = rows_of([prompt], first_sample=n)
        write(COMPOSITIONS["a product"], [alone])
        assert (alone.token_ids, alone.stream.text) == (together[n].token_ids, together[n].stream.text)
        assert alone.log_probs == pytest.approx(together[n].log_probs, abs=1e-12)


@pytest.mark.parametrize(
    "sampling", [PLAIN, Sampling(temperature=0), Sampling(top_p=0.8, repetition_penalty=1.3, stop=("e",))]
)
def test_a_row_of_a_language_model_does_not_depend_on_its_batch(
    tiny_lm: CausalLM, make_head: MakeHead, sampling: Sampling
) -> None:
    factor = tiny_lm * make_head(3) ** 1.5 * make_head(0) ** -0.5
    prompts = [[0], [0, 5, 6, 7], [0, 5, 6, 7], [0, 30], [0, *range(4, 24)]]
    together = rows_of(prompts, stops=sampling.stop)
    write(factor, together, 12, sampling)
    for n, prompt in enumerate(prompts):
        [alone] = rows_of([prompt], stops=sampling.stop, first_sample=n)
        write(factor, [alone], 12, sampling)
        assert (alone.token_ids, alone.finish_reason) == (together[n].token_ids, together[n].finish_reason)
        assert alone.log_probs == pytest.approx(together[n].log_probs, abs=1e-4)  # float32 in another order


class Counting(Table):
    """Notes how many rows are read at each step."""

    sizes: list[int]

    def extend(self, state: State, token_B: torch.Tensor) -> State:
        self.sizes.append(len(token_B))
        return super().extend(state, token_B)


def test_finished_rows_leave_the_batch() -> None:
    plain = table(0)
    counting = Counting(plain.tokens, plain.log_weight)
    object.__setattr__(counting, "sizes", [])
    rows = rows_of([[]] * 30)
    write(counting, rows)
    lengths = [len(row.token_ids) for row in rows]
    assert counting.sizes == [sum(n > t for n in lengths) for t in range(1, max(lengths))]
    assert len(set(counting.sizes)) > 1, "rows must finish at different times"


def spell(texts: Mapping[str, float], vocabulary: Vocabulary) -> Table:
    """The language of these texts, letter by letter."""
    end = vocabulary.end_ids[0]
    log_weight: dict[tuple[int, ...], torch.Tensor] = {}
    for text, prob in texts.items():
        ids = [vocabulary.token_bytes.index(letter.encode()) for letter in text] + [end]
        for n, token in enumerate(ids):
            row_V = log_weight.setdefault(tuple(ids[:n]), torch.zeros(vocabulary.size, dtype=torch.float64))
            row_V[token] += prob
    return Table(vocabulary, {text: (row_V / row_V.sum()).log() for text, row_V in log_weight.items()})


@pytest.mark.parametrize(
    ("stops", "text", "reason", "num_tokens"),
    [
        ((), "abcabd", "end", 7),
        (("abd",), "abc", "stop", 6),
        (("bd", "ca"), "ab", "stop", 4),
        (("x",), "abcabd", "end", 7),
        (("abda",), "abcabd", "end", 7),
        (("a",), "", "stop", 1),
    ],
)
def test_stop_strings(stops: tuple[str, ...], text: str, reason: str, num_tokens: int) -> None:
    language = spell({"abcabd": 1.0}, letters("abcdx"))
    [row] = rows_of([[]], stops=stops)
    events = write(language, [row], sampling=Sampling(stop=stops))
    assert (row.stream.text, row.finish_reason, len(row.token_ids)) == (text, reason, num_tokens)
    assert "".join(event.text for event in events) == text


@pytest.mark.parametrize("max_tokens", [0, 1, 3, 6, 7, 8])
def test_most_tokens(max_tokens: int) -> None:
    [row] = rows_of([[]], stops=("bdx",))
    events = write(spell({"abcabd": 1.0}, letters("abcdx")), [row], max_tokens)
    assert row.stream.text == "abcabd"[:max_tokens], "what was held back for a stop string comes out at last"
    assert row.finish_reason == ("" if max_tokens == 0 else "length" if max_tokens < 7 else "end")
    assert "".join(event.text for event in events) == row.stream.text
    assert [event.token for event in events] == row.token_ids


def test_no_rows_are_no_mistake() -> None:
    assert write(table(0), []) == []


def test_a_dead_end_says_where() -> None:
    vocabulary = letters("ab")
    only = {(): [1.0, 0.0, 0.0], (0,): [0.0, 0.0, 0.0]}
    dead = Table(vocabulary, {text: torch.tensor(row, dtype=torch.float64).log() for text, row in only.items()})
    with pytest.raises(DeadEndError, match="impossible after 1 generated tokens"):
        write(dead, rows_of([[]]))
    with pytest.raises(DeadEndError, match="impossible after 0 generated tokens"):
        write(dead, rows_of([[], [0]]))


@pytest.mark.parametrize("stops", [(), ("e",), ("\ufffd", "é€")])
def test_events_are_the_text_in_whole_characters(tiny_lm: CausalLM, stops: tuple[str, ...]) -> None:
    """The tiny model writes single bytes of é and € at random, so most are broken; whole ones must survive."""
    rows = rows_of([[0]] * 40, stops=stops)
    written: dict[int, str] = dict.fromkeys(range(40), "")
    for event in write(tiny_lm, rows, 30, Sampling(temperature=1.5, stop=stops)):
        written[event.row] += event.text
    for n, row in enumerate(rows):
        decoded = tiny_lm.vocabulary.decode(row.token_ids).decode(errors="replace")
        ends = [decoded.index(stop) for stop in stops if stop in decoded]
        assert written[n] == row.stream.text == (decoded[: min(ends)] if ends else decoded)
        assert (row.finish_reason == "stop") == bool(ends)


def test_a_character_of_several_tokens_comes_out_whole() -> None:
    vocabulary = Vocabulary((b"\xe2", b"\x82", b"\xac", b"x", b""), (4,))
    path = [3, 0, 1, 2, 3, 0, 4]  # x€x and a broken beginning
    steps = {tuple(path[:n]): torch.full((5,), -torch.inf, dtype=torch.float64) for n in range(len(path))}
    for n, token in enumerate(path):
        steps[tuple(path[:n])][token] = 0.0
    events = write(Table(vocabulary, steps), rows_of([[]]))
    assert [event.text for event in events] == ["x", "", "", "€", "x", "", "\ufffd"]
