"""What each factor did, as numbers, colours and a page."""

import json
import math
import re
from collections.abc import Callable

import pytest
from rich.console import Console

import factorlm as fl
from factorlm.factors.head import Head
from factorlm.inference import Explanation, Response
from factorlm.inference.explanation import COLOURS
from factorlm.models import CausalLM

TEXT = " the good <b>é€ house"


def made_up(*contributions: tuple[float, ...], tokens: tuple[str, ...] | None = None) -> Explanation:
    n = len(contributions)
    names = tuple(f"factor{k}" for k in range(len(contributions[0])))
    return Explanation(
        prompt="<script>alert(1)</script>",
        tokens=tokens or tuple(f"t{i}" for i in range(n)),
        names=names,
        exponents=(2.0,) * len(names),
        log_probs=(-1.0,) * n,
        base_log_probs=(-1.5,) * n,
        contributions=contributions,
        normalizers=(0.1,) * n,
    )


@pytest.fixture(scope="module")
def explanation(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> Explanation:
    model = fl.Model(tiny_lm, tiny_lm) * make_head(0, name="flat") ** 2.0 / make_head(3, name="bent")
    return model.explain("so", TEXT)


def test_numbers_add_up(explanation: Explanation) -> None:
    assert explanation.names == ("flat", "bent")
    assert explanation.exponents == (2.0, -1.0)
    for i, item in enumerate(explanation.as_json()):
        want = item["base_log_prob"] + sum(item["factors"].values()) - item["normalizer"]
        assert item["log_prob"] == pytest.approx(want, abs=1e-4)  # float32
        assert item["token"] == explanation.tokens[i]
    totals = explanation.totals()
    assert totals["bent"] == pytest.approx(math.fsum(c[1] for c in explanation.contributions))
    assert json.loads(json.dumps(explanation.as_json())) == explanation.as_json()


def test_tokens_are_the_text_in_whole_characters(explanation: Explanation) -> None:
    assert "".join(explanation.tokens) == TEXT
    assert "€" in explanation.tokens
    assert len(explanation.tokens) == len(explanation.log_probs)


def test_a_response_is_explained_as_it_was_drawn(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> None:
    model = fl.Model(tiny_lm, tiny_lm) * make_head(0, name="flat")
    [response] = model.generate("so", max_tokens=12, explain=True)
    assert isinstance(response, Response)
    again = model.explain("so", response)
    assert response.explanation is not None
    assert again.tokens == response.explanation.tokens
    assert again.log_probs == pytest.approx(response.explanation.log_probs, abs=1e-4)


def test_the_page_needs_nothing_else(explanation: Explanation) -> None:
    page = explanation.html()
    assert not re.search(r"""(src|href)\s*=|https?:|@import|url\(|<script""", page)
    assert "&lt;" in page
    assert "<b>" not in page
    assert "flat" in page
    assert "bent" in page
    assert "<script>" not in made_up((1.0,)).html("<script>")


def test_colours_are_the_strongest_factors() -> None:
    e = made_up((0.1, 0.0), (0.5, -0.6), (-1.5, 0.2), (0.3, 0.2))
    assert [e.strongest(i) for i in range(4)] == [None, 1, 0, 0]
    assert [e.style(i) for i in range(4)] == ["", f"underline {COLOURS[1]}", f"bold underline {COLOURS[0]}", COLOURS[0]]
    assert e.coloured().plain == "t0t1t2t3"
    assert len(set(COLOURS)) == len(COLOURS)
    assert made_up((0.0,) * 10 + (3.0,)).style(0).endswith(COLOURS[10 % len(COLOURS)]), "colours go round"


def test_no_factors_no_colours() -> None:
    e = made_up((), ())
    assert [e.style(0), e.strongest(1), e.totals()] == ["", None, {}]
    assert "t0" in e.html()


def shown(renderable: object) -> str:
    console = Console(width=100, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_table_shows_the_strongest_tokens_in_order() -> None:
    e = made_up((0.1,), (2.0,), (-3.0,), (0.2,))
    lines = [line.split() for line in shown(e.table(2)).splitlines()[1:]]
    assert [line[0] for line in lines] == ["t1", "t2"]
    assert lines[0][1:] == ["-1.50", "+2.00", "-0.10", "-1.00"]
    assert "factor0^2" in shown(e.legend())


@pytest.mark.parametrize("token", ["[/b]", "[red]", "[bold]x"])
def test_brackets_in_a_text_are_shown(token: str) -> None:
    assert token in shown(made_up((2.0,), tokens=(token,)).table())
