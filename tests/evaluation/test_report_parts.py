"""What reports are made of: numbers as text, and places and colours in pictures."""

import math
import re
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from factorlm.evaluation.document import (
    Bar,
    Column,
    Curve,
    Intervals,
    Matrix,
    ModelCard,
    Provenance,
    Report,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.report import terminal, write_report
from factorlm.evaluation.report.canvas import LIGHT, Canvas, Scale, Ticks
from factorlm.evaluation.report.labels import Labels, overlap, spread
from factorlm.evaluation.report.page import page
from factorlm.evaluation.report.pictures import WIDE, colours, draw
from factorlm.evaluation.report.writing import best_rows, cell_text, interval, number, p_value

MODELS = ("A", "smollm2 * positive^2", "smollm2")


@pytest.mark.parametrize(("value", "form", "text"), [
    (None, ".3g", "—"), (math.nan, ".2f", "—"), (-math.inf, ".0%", "−∞"), (-0.5, ".2f", "−0.50"), (3, ".3g", "3"),
    (0.12345, "", "0.123"),
    (123456, ".3g", "123456"), (123456.0, ".3g", "123456"), (2.6, "d", "3"), (0.123, ".1%", "12.3%"),
    (-0.0001, ".2f", "0.00"), (1e-7, ".3g", "1e−7"), (2.5e9, ".3g", "2.5e9"), (0.5, "+.1f", "+0.5"),
])  # fmt: skip
def test_numbers_are_written(value: float | None, form: str, text: str) -> None:
    assert number(value, form) == text


def test_estimates_are_written() -> None:
    wide = Estimate(value=0.0061, low=-0.026, high=0.0138, n=9)
    assert (cell_text(wide), interval(wide)) == ("0.0061", "−0.0260 to 0.0138")
    assert interval(Estimate(value=0.5, low=0.444, high=0.61), ".0%") == "44–61%"
    assert interval(Estimate(value=0.5)) == ""
    assert [p_value(p) for p in (None, 0.0002, 0.0342, 0.5)] == ["—", "< 0.001", "0.034", "0.50"]
    columns = (Column(title="x"), Column(title="low", best="low"), Column(title="high", best="high"))
    rows = (("a", 1, Estimate(value=2.0)), ("b", 1.0, None), ("c", 3, 2.0), ("d", "n/a", Estimate(value=None)))
    table = Table(title="", columns=columns, rows=rows)
    assert [best_rows(table, j) for j in range(3)] == [frozenset(), {0, 1}, {0, 2}]
    assert best_rows(table.model_copy(update={"rows": rows[:1]}), 1) == frozenset()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 8), st.booleans())
def test_ticks_are_few_round_and_different(low: float, span: float, count: int, is_percent: bool) -> None:
    ticks = Ticks.over(low, low + span, count, is_percent)
    assert 3 <= len(ticks.values) <= 2.5 * count + 6
    assert len({ticks.text(v) for v in ticks.values}) == len(ticks.values)
    lead = ticks.step / 10 ** math.floor(math.log10(ticks.step) + 1e-9)
    assert min(abs(lead - m) for m in (1, 2, 2.5, 5)) < 1e-6
    scale = Scale.of([low, low + span], 0, 100, count, is_percent=is_percent, round_up=True)
    room = 1e-5 * scale.ticks.step  # numbers this near to a tick count as on it
    assert scale.low - room <= low <= low + span <= scale.high + room
    assert 0 <= scale(low) < scale(low + span) <= 100


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8))
def test_labels_of_lines_keep_apart(wanted: list[float]) -> None:
    found = spread(wanted, 16, 0, 300)
    placed = [found[i] for i in sorted(range(len(wanted)), key=lambda i: found[i])]
    assert all(b - a >= 16 - 1e-6 for a, b in pairwise(placed))
    assert min(found) >= -1e-6
    assert max(found) <= 300 + 1e-6


def test_labels_of_points_do_not_cover_each_other() -> None:
    labels = Labels(0, 300, 0, 200)
    for x in (100, 110, 290):
        labels.block(x, 100, x, 100)
    for x in (100, 110, 290):
        labels.write(Canvas(300), "strength", x, 100)
    markers, texts = labels.taken[:3], labels.taken[3:]
    assert [overlap(a, b) for i, a in enumerate(texts) for b in [*texts[:i], *markers]] == [0] * 12
    assert all(box[2] <= 300 for box in texts)


def test_a_curve_is_where_its_numbers_are() -> None:
    heights = (0.0, 1.0, None, 4.0, Estimate(value=2.0, low=-math.inf, high=math.inf), 3.0)
    series = (Series(name="a", x=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0), y=heights),)
    picture = Curve(title="", x_label="", y_label="", series=series)
    svg = draw(picture, WIDE).svg("")
    _legend, *spots = [(float(x), float(y)) for x, y in re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", svg)]
    assert len(spots) == 5
    step = spots[1][0] - spots[0][0]
    assert [round((x - spots[0][0]) / step, 1) for x, _ in spots] == [0, 1, 3, 4, 5]
    unit = spots[0][1] - spots[1][1]
    assert [round((spots[0][1] - y) / unit, 1) for _, y in spots] == [0, 1, 4, 2, 3]
    assert svg.count("stroke-linejoin") == 2, "the line is broken where a height is missing"


def test_models_keep_their_colours() -> None:
    assert colours(["human", "smollm2", "A", "new"], MODELS, [True, False, False, False]) == [None, 2, 0, 1]
    assert colours(["x", "y"], MODELS, [False, False]) == [0, 1]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: str, ground: str, share: float) -> str:
    pairs = [(int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def test_colours_can_be_read_by_day_and_by_night() -> None:
    """WCAG AA: 4.5 for text, 3 for what is drawn."""
    css = (Path(write_report.__code__.co_filename).parent / "page.css").read_text(encoding="utf-8")
    light_css, dark_css = css.split("prefers-color-scheme: dark")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", text)) for text in (light_css, dark_css))
    assert {name: light[name] for name in LIGHT} == LIGHT
    assert dark.keys() == light.keys()
    for theme in (light, dark):
        texts = [("ink", "paper"), ("dim", "paper"), ("ink", "soft"), ("dim", "soft"), ("link", "paper"),
                 ("ink", "calm"), ("good", "good-soft"), ("bad", "bad-soft"), ("even", "even-soft")]  # fmt: skip
        assert {pair: contrast(theme[pair[0]], theme[pair[1]]) for pair in texts if
                contrast(theme[pair[0]], theme[pair[1]]) < 4.5} == {}  # fmt: skip
        drawn = [*(f"s{k}" for k in range(8)), "ref", "axis"]
        assert {name for name in drawn if contrast(theme[name], theme["paper"]) < 3} == set()
        for name in ("above", "below"):
            assert contrast(theme["ink"], mixed(theme[name], theme["paper"], 0.6)) >= 4.5


def test_a_document_is_rectangular() -> None:
    with pytest.raises(ValidationError, match="1 positions, 2 heights"):
        Series(name="s", x=(1.0,), y=(1.0, 2.0))
    with pytest.raises(ValidationError, match="2 cells are wanted"):
        Table(title="t", columns=(Column(title="a"), Column(title="b")), rows=((1,),))
    with pytest.raises(ValidationError, match="2 values are wanted"):
        Intervals(title="", x_label="", series=("a", "b"), bars=(Bar(label="c", values=(Estimate(value=1.0),)),))
    with pytest.raises(ValidationError, match="1 rows of 2 values"):
        Matrix(title="", row_label="", column_label="", rows=("a",), columns=("b", "c"), values=((1.0,),))
    with pytest.raises(ValidationError):
        Column(title="a", form="%d")


def report_of(measures: dict[str, dict[str, Estimate]]) -> Report:
    """Of one model, m, with nothing but these numbers."""
    made = Provenance(command="", settings={}, seed=0, data={}, versions={}, machine="", seconds=0.0,
                      finished="2026-05-04T10:11:12+00:00")  # fmt: skip
    card = ModelCard(name="m", expression="m", parts=())
    return Report(suite="quick", title="Many", models=(card,), sections=(), measures=measures, provenance=made)


def shown_of(report: Report) -> str:
    """In a terminal of 80 columns."""
    console = Console(width=80, record=True, file=StringIO())
    console.print(terminal(report))
    return console.export_text()


@pytest.mark.parametrize("number", [3, 60])
def test_a_long_list_of_measures_unfolds_on_the_page_and_is_only_named_in_the_terminal(number: int) -> None:
    report = report_of({f"measure {n}": {"m": Estimate(value=float(n))} for n in range(number)})
    shown = shown_of(report)
    assert ("60 measures: --json prints them" in shown) == (number == 60)
    assert ("measure 2" in shown) == (number == 3)
    assert ("<summary>All 60 measures</summary>" in page(report)) == (number == 60)
    assert "measure 2" in page(report)


def test_measures_of_other_things_than_models_make_no_empty_table(tmp_path: Path) -> None:
    report = report_of({"purity": {"clusters": Estimate(value=0.5)}})
    write_report(report, tmp_path)
    for text in (shown_of(report), page(report), (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert "Measures" not in text
        assert "measure" not in text.split()
        assert "Nothing was measured" not in text
    assert '"purity"' in (tmp_path / "report.json").read_text(encoding="utf-8")
