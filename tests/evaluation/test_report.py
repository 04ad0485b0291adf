"""Reports: one with everything in it, as JSON, Markdown, HTML and on a terminal."""

import io
import math
import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from factorlm.errors import InputError
from factorlm.evaluation.document import (
    Bar,
    Column,
    Comparisons,
    Curve,
    Intervals,
    Matrix,
    ModelCard,
    Prose,
    Provenance,
    Report,
    Samples,
    Scatter,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.evaluation.report import terminal, write_report
from factorlm.evaluation.report.numbers import measures, numbers
from factorlm.evaluation.report.page import page, prose
from factorlm.evaluation.report.pictures import NARROW, WIDE, draw
from factorlm.evaluation.report.writing import cell_text, interval

EVIL = "<script>alert('x')</script>"
LONG = "smollm2 * positive^2.5 / toxic^1.5 * lexicon:seafaring^0.75 * calm=0.3"
MODELS = ("A", "smollm2 * positive^2", "smollm2")
STRENGTHS = (-0.8, -0.4, 0.0, 0.4, 0.8)


def estimate(value: float | None, half: float = 0.03, n: int = 120) -> Estimate:
    if value is None:
        return Estimate(value=None)
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def dose(slope: float) -> tuple[Estimate, ...]:
    return tuple(estimate(1 / (1 + math.exp(-slope * s)), 0.02 + 0.05 * abs(s)) for s in STRENGTHS)


def compared(measure: str, verdict: str, value: float | None, p: float | None, reason: str = "") -> Comparison:
    return Comparison(
        measure=measure, model="A", rival="smollm2", difference=estimate(value, 0.02), p_value=p,
        verdict=verdict, reason=reason,  # type: ignore[arg-type]
    )  # fmt: skip


COMPARED = (
    compared("bits_per_byte/wikitext", "worse", 0.031, 0.0001),
    compared("positive by stars|five", "better", 0.412, 0.004),
    compared("distinct_2", "no difference shown", -0.006, 0.41),
    compared("mauve", "cannot rank", None, None, "6 units; at least 8 are needed"),
)

TABLES = Section(
    title="Bits per byte, by corpus",
    lead="Each token is counted once, with at least `window / 2` tokens before it; lower is better.",
    blocks=(
        Prose(
            text="A text of probability one costs nothing. Documents are read whole: see `factorlm eval perplexity`."
        ),
        Table(
            title="Bits per byte",
            columns=(
                Column(title="corpus"),
                Column(title="A", form=".3f", best="low"),
                Column(title="smollm2 * positive^2", form=".3f", best="low"),
                Column(title="smollm2", form=".3f", best="low"),
                Column(title="documents", form="d"),
                Column(title="share", form=".1%"),
            ),
            rows=(
                ("wikitext", estimate(0.912), estimate(0.954), estimate(0.881), 62, 0.124),
                ("小説 (Japanese novels)", estimate(1.912), estimate(2.104), estimate(1.871), 1204, 0.576),
                (f"web | forum {EVIL}", Estimate(value=1.3, n=1), estimate(None), None, 1, 0.3),
            ),
            note="Intervals are 95 % bootstrap intervals over documents.",
        ),
        Table(
            title="Costs",
            columns=(Column(title="what"), Column(title="tokens a second"), Column(title="change", form="+.2f")),
            rows=(("reading", 412.0, -0.04), ("writing *now*", 58.25, 0.0), ("a_long_name", 1234567.0, -12.5)),
        ),
        Table(title="Nothing yet", columns=(Column(title="corpus"), Column(title="A")), rows=()),
    ),
)

CURVES = Section(
    title="Dose and response",
    lead="How often a judge that does not steer finds the attribute.",
    blocks=(
        Curve(
            title="Positive continuations against strength",
            x_label="strength, nats per token",
            y_label="share of positive continuations",
            series=(
                Series(name="A", x=STRENGTHS, y=dose(2.2)),
                Series(name="smollm2 * positive^2", x=STRENGTHS, y=dose(1.1)),
                Series(name="human texts", x=(0.0,), y=(0.41,), is_reference=True),
            ),
            is_percent=True,
            note="Bands are 95 % intervals.",
        ),
        Curve(
            title="Nats by position",
            x_label="tokens before",
            y_label="nats per token",
            series=tuple(
                Series(
                    name=f"{name} with a rather long name, number {k}" if k < 3 else name,
                    x=tuple(float(2**i) for i in range(10)),
                    y=tuple(None if (i, k) == (4, 2) else 5.5 - 0.3 * k - 0.35 * math.log1p(i) for i in range(10)),
                )
                for k, name in enumerate(
                    ("wikitext", "news", "stories", "mathematics", "code", "poems", "letters", "law", "speech")
                )
            ),
        ),
        Curve(
            title="A single point",
            x_label="tokens",
            y_label="change, nats",
            series=(Series(name="smollm2", x=(512.0,), y=(estimate(-0.2),), labels=("only this",)),),
        ),
        Scatter(
            title="What control costs",
            x_label="perplexity under the base",
            y_label="share of positive continuations",
            series=(
                Series(
                    name="A", x=tuple(estimate(20 + 30 * s * s, 2.5) for s in STRENGTHS), y=dose(2.2),
                    labels=tuple(f"{s:+g}" for s in STRENGTHS),
                ),
                Series(
                    name="smollm2 * positive^2", x=tuple(estimate(21 + 42 * s * s, 2.5) for s in STRENGTHS),
                    y=dose(1.4), labels=tuple(f"{s:+g}" for s in STRENGTHS),
                ),
                Series(name="human texts", x=(27.0,), y=(0.43,), labels=("human texts",), is_reference=True),
            ),
            y_is_percent=True,
            best="upper left",
            note="Labels are strengths; up and to the left is better.",
        ),
        Scatter(
            title=f"Many points {EVIL}",
            x_label="repetition",
            y_label="entropy",
            series=tuple(
                Series(
                    name=f"model {k}",
                    x=tuple(0.1 * k + 0.05 * i for i in range(3)),
                    y=tuple(-1 + 0.2 * ((7 * k + 3 * i) % 11) for i in range(3)),
                    labels=tuple(f"temperature {0.5 + i / 4:g}" for i in range(3)),
                )
                for k in range(6)
            ),
            best="lower right",
        ),
    ),
)  # fmt: skip

OTHERS = Section(
    title="Bits per byte, by corpus",
    blocks=(
        Intervals(
            title="Differences from the base",
            x_label="change of the share of right answers against the base model alone, in points of a hundred",
            series=("A", "smollm2 * positive^2"),
            bars=(
                Bar(label="common sense", values=(estimate(-0.021), estimate(0.011))),
                Bar(label="truthfulness", values=(estimate(0.052), estimate(None))),
                Bar(label="arithmetic", values=(estimate(-0.09, 0.11), estimate(-0.1))),
            ),
            zero=0.0,
            is_percent=True,
        ),
        Intervals(
            title="One model, long labels",
            x_label="accuracy",
            series=("smollm2",),
            bars=(
                Bar(
                    label="A question with a very long wording that would not fit beside its row",
                    values=(estimate(0.5),),
                ),
                Bar(label=EVIL, values=(estimate(0.61),)),
            ),
        ),
        Matrix(
            title="Interference",
            row_label="factor turned up",
            column_label="judge",
            rows=("positive", "toxic", "formal & polite"),
            columns=("positive", "toxic", "formality by the register judge"),
            values=((0.41, -0.12, 0.02), (-0.22, 0.55, None), (0.05, -0.31, 0.38)),
            is_signed=True,
            note="Change of the share when a factor is turned up by 0.4 nats per token.",
        ),
        Matrix(
            title="Confusion",
            row_label="truth",
            column_label="answer",
            rows=tuple(f"class {i}" for i in range(12)),
            columns=tuple(f"class {i}" for i in range(12)),
            values=tuple(tuple(float(40 * (i == j) + (i * j) % 7) for j in range(12)) for i in range(12)),
            form=".0f",
        ),
        Samples(
            title="Texts",
            texts=(
                (
                    "A, strength +0.4",
                    "The weather today",
                    " is lovely.\n\nWe went out <b>at once</b> & laughed.\x1b[31m",
                ),
                ("smollm2", EVIL, " was | written\n```\n# no heading\n\u202eand backwards\u202c — ünïcödé 🙂"),
                *((f"sample {k}", "Once", " upon a time " * k) for k in range(6)),
            ),
        ),
        Comparisons(title="Against the base", rows=COMPARED, note="Paired over prompts."),
        Comparisons(
            title="All pairs",
            rows=(COMPARED[0], COMPARED[1].model_copy(update={"rival": "smollm2 * positive^2"})),
        ),
    ),
)

REPORT = Report(
    suite="control",
    title="Control of A",
    headlines=(
        "A writes positive continuations in 85 % of cases, against 43 % for `smollm2`.",
        "It costs 0.031 bits per byte on wikitext.",
        f"Nothing is run: {EVIL}",
    ),
    cautions=("MAUVE cannot rank these models: 6 units are too few.", "The judges agree on 71 % of texts only."),
    models=(
        ModelCard(
            name="A",
            expression=LONG,
            parts=(
                {"name": "smollm2", "kind": "model", "fingerprint": "0123456789abcdef"},
                {"name": "positive", "kind": "head", "version": "1", "fingerprint": "fedcba9876543210"},
                {"name": "toxic", "kind": "head", "version": "1", "fingerprint": "aaaabbbbccccdddd"},
            ),
        ),
        ModelCard(name=MODELS[1], expression=MODELS[1], parts=({"name": "smollm2", "kind": "model"},)),
        ModelCard(name=MODELS[2], expression=MODELS[2], parts=()),
    ),
    sections=(TABLES, CURVES, OTHERS, Section(title="Nothing to add", lead="This part was left out.")),
    measures={
        "bits_per_byte/wikitext": dict(zip(MODELS, (estimate(0.912), estimate(0.954), estimate(0.881)), strict=True)),
        "positive by stars|five": dict(zip(MODELS, (estimate(0.852), estimate(0.611), estimate(0.431)), strict=True)),
        "a_measure_with_a_very_long_name/and_a_part": {"A": estimate(-0.5, 0.7), "smollm2": Estimate(value=None)},
        "perplexity/wikitext": {"A": estimate(12345.6, 800), "smollm2": estimate(22.1, 1.3)},
    },
    comparisons=COMPARED,
    provenance=Provenance(
        command=f"factorlm eval control --model '{LONG}' --vs smollm2",
        settings={"num_prompts": 40, "sampling": {"top_p": 0.9, "top_k": None}, "strengths": [-0.4, 0.0, 0.4]},
        seed=7,
        data={"sst2/test": "0a1b2c3d", f"sentiment_prompts/{EVIL}": "99887766"},
        judges={"stars": "1122334455"},
        versions={"python": "3.11.7", "torch": "2.13.0"},
        machine="a processor, 2 cores",
        commit="abc1234+",
        seconds=83.4,
        finished="2026-05-04T10:11:12+00:00",
    ),
)  # fmt: skip

PICTURES = [b for s in REPORT.sections for b in s.blocks if isinstance(b, Curve | Scatter | Intervals | Matrix)]
BLOCKS = [b for s in REPORT.sections for b in s.blocks if not isinstance(b, Prose)]
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Page(HTMLParser):
    """A page taken apart; a tag that is not closed in its turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, before = self.headings[-1]
            self.headings[-1] = level, before + data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def made() -> Page:
    return Page(page(REPORT))


def with_blocks(*blocks: object) -> Report:
    return REPORT.model_copy(update={"sections": (Section(title="Only", blocks=blocks),)})  # type: ignore[arg-type]


def test_the_page_has_every_part(made: Page) -> None:
    titles = [text for _, text in made.headings]
    for title in [REPORT.title, *(s.title for s in REPORT.sections), *(b.title for b in BLOCKS)]:
        assert title in titles
    levels = [level for level, _ in made.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), "a level of headings was left out"
    wanted = [*REPORT.cautions, LONG, "0.912", "0.882–0.942", "12.4%", "no difference shown", "at least 8 are needed",
              "小説 (Japanese novels)", "sampling.top_p", "0a1b2c3d", "2026-05-04 10:11 UTC", "2 more"]  # fmt: skip
    samples = next(b for b in BLOCKS if isinstance(b, Samples))
    wanted += [text for sample in samples.texts[2:] for text in sample] + [samples.texts[0][2][:40]]
    wanted += [note for block in BLOCKS if (note := getattr(block, "note", ""))]
    assert [text for text in wanted if text not in made.text] == []
    drawn = [attrs for attrs in made.all("svg") if attrs.get("role") == "img"]
    assert len(drawn) == 2 * len(PICTURES)
    assert all(attrs["aria-label"] for attrs in drawn)
    assert len(made.all("figure")) == len(PICTURES)


def test_the_page_is_whole_and_loads_nothing(made: Page) -> None:
    ids = [attrs["id"] for _, attrs in made.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in made.tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "form")
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "action")]
        assert "url(" not in (attrs.get("style") or "")
        assert attrs.get("aria-labelledby") in [None, *ids]
        if "href" in attrs:
            assert attrs["href"] == "data:," or str(attrs["href"])[1:] in ids
    text = page(REPORT)
    assert re.search("https?:|@import|url\\(", text) is None
    assert all(attrs.get("scope") in ("row", "col") for attrs in made.all("th"))


def test_untrusted_text_is_only_text() -> None:
    evil = f"{EVIL}</style></svg>\x00\x1b[31m\u202e\ud800"
    report = REPORT.model_copy(update={"title": evil, "headlines": (f"`{evil}`",), "suite": evil})
    made = Page(page(report))
    assert made.all("script") == []
    assert made.headings[0][1].startswith(EVIL)
    assert not re.search("[\x00\x1b\u202e\ud800]", page(report))
    assert str(prose("a `<b>` & c")) == "a <code>&lt;b&gt;</code> &amp; c"


def test_json_reads_back(tmp_path: Path) -> None:
    path = write_report(REPORT, tmp_path)[0]
    assert Report.model_validate_json(path.read_text(encoding="utf-8")) == REPORT
    odd = with_blocks(
        Table(title="\ud800", columns=(Column(title="x"),), rows=((math.inf,), (Estimate(value=math.nan, high=1.0),))),
        Curve(title="c", x_label="", y_label="", series=(Series(name="s", x=(0.0, math.nan), y=(-math.inf, 1.0)),)),
    )
    back = Report.model_validate_json(write_report(odd, tmp_path)[0].read_text(encoding="utf-8"))
    assert back.sections[0].blocks[0].rows == ((None,), (Estimate(value=None, high=1.0),))  # type: ignore[union-attr]


def test_markdown_is_read_as_it_was_meant(tmp_path: Path) -> None:
    text = next(p for p in write_report(REPORT, tmp_path) if p.suffix == ".md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert not [t for t in tokens if t.type == "html_block"]
    inline = [child for t in tokens for child in t.children or []]
    assert not [t for t in inline if t.type == "html_inline"]
    images = [str(t.attrs["src"]) for t in inline if t.type == "image"]
    assert len(images) == len(PICTURES)
    assert all((tmp_path / image).is_file() for image in images)
    widths: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    assert len(widths) == 6
    assert all(len(set(rows)) == 1 for rows in widths)
    words = "".join(t.content for t in inline if t.type in ("text", "code_inline"))
    for wanted in ("positive by stars|five", f"web | forum {EVIL}", "writing *now*", "a_long_name"):
        assert wanted in words
    assert "```\n# no heading" in "".join(t.content for t in tokens if t.type == "fence")


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    first = write_report(REPORT, tmp_path / "a" / "deep")
    second = write_report(Report.model_validate_json(REPORT.model_dump_json()), tmp_path / "b")
    assert [p.name for p in first[:3]] == ["report.json", "report.md", "report.html"]
    assert len(first) == 3 + len(PICTURES)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    for path in first[3:]:
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert "var(" not in path.read_text(encoding="utf-8")
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert sorted(p for p in (tmp_path / "b").rglob("*") if p.is_file()) == sorted(second)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="got the file"):
        write_report(REPORT, tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(REPORT, tmp_path / "file" / "below")
    write_report(with_blocks(), tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.md").unlink()
    (tmp_path / "report.md").mkdir()
    with pytest.raises(InputError, match="choose another folder"):
        write_report(REPORT, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        write_report(REPORT, tmp_path)


@pytest.mark.parametrize("report", [REPORT, REPORT.model_copy(update={"measures": {"m": {
    f"smollm2 * positive^{k}": estimate(k / 7) for k in range(7)}}})])  # fmt: skip
def test_a_terminal_of_80_columns(report: Report) -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal(report.model_copy(update={"title": "a\x1b[31mb"})))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    for row in COMPARED:
        assert row.verdict in text
    for found in report.measures.values():
        assert all(cell_text(e) in text and interval(e) in text for e in found.values())
    assert "`" not in text
    assert "MAUVE cannot rank" in text


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.kind)
def test_pictures_stay_in_their_frames(picture: Curve | Scatter | Intervals | Matrix, width: int) -> None:
    canvas = draw(picture, width, MODELS)
    svg = canvas.svg("x")
    ET.fromstring(svg)
    lines = re.sub("<path transform[^>]*>", "", svg)
    found = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", lines) + re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", svg)
    assert found or isinstance(picture, Matrix)
    for x, y in found:
        assert 0 <= float(x) <= canvas.width
        assert 0 <= float(y) <= canvas.height
    assert "nan" not in svg
    assert "inf" not in svg.replace("information", "")


def test_pictures_as_tables() -> None:
    dose_table = numbers(PICTURES[0])
    assert [c.title for c in dose_table.columns[1:]] == ["A", "smollm2 * positive^2", "human texts"]
    assert [row[0] for row in dose_table.rows] == list(STRENGTHS)
    assert dose_table.rows[2][3] == 0.41
    assert numbers(PICTURES[3]).rows[-1] == ("human texts", "human texts", 27.0, 0.43)
    assert numbers(PICTURES[7]).rows[1] == ("toxic", -0.22, 0.55, None)
    table = measures(REPORT)
    assert [c.title for c in table.columns] == ["measure", *MODELS]
    assert table.rows[3][2] is None
