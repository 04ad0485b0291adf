"""All suites at once, on the real model, as small as they can be: one report with a part for each."""

from pathlib import Path

import pytest

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Comparisons, Prose
from factorlm.evaluation.report import write_report
from factorlm.evaluation.run import evaluate
from factorlm.evaluation.suites import quick
from factorlm.evaluation.workbench import Cache
from factorlm.settings import changed

TINY = """
perplexity.corpora=[{part = "tinystories/valid", max_documents = 3, max_characters = 120}]
generation.num_prompts=4
generation.max_tokens=12
generation.words=4
control.num_prompts=4
control.max_tokens=6
control.strengths=[0.4]
toxicity.num_prompts=4
toxicity.samples=2
toxicity.max_tokens=6
capability.sets=["commonsense_qa"]
capability.commonsense_qa.num_questions=4
"""


@pytest.mark.model
@pytest.mark.slow
def test_quick_has_a_part_for_each_suite(data: DataFolder, tmp_path: Path, lm: object) -> None:
    settings = changed(quick.Settings.sized("small"), None, TINY.strip().splitlines())
    cache = Cache(tmp_path / "cache")
    report = evaluate("quick", ["smollm2 * positive=0.4", "smollm2"], settings=settings, data=data, cache=cache)
    titles = [section.title for section in report.sections]
    assert [title for title in titles if title in {part.capitalize() for part in quick.PARTS}] == [
        part.capitalize() for part in quick.PARTS
    ]
    for part in quick.PARTS:
        assert any(title.startswith(f"{part.capitalize()}: ") for title in titles)
        assert any(measure.startswith(f"{part}/") for measure in report.measures)
    assert len(report.headlines) == len(quick.PARTS)
    assert {c.verdict for c in report.comparisons} <= {"better", "worse", "no difference shown", "cannot rank"}
    assert any(c.verdict == "cannot rank" for c in report.comparisons)  # four questions rank nothing
    blocks = [block for section in report.sections for block in section.blocks]
    repeated = [b for b in blocks if isinstance(b, Comparisons) and set(b.rows) <= set(report.comparisons)]
    assert repeated == []  # they head the report already, and only what they say of themselves stays
    assert any(isinstance(b, Prose) and b.text.startswith("Comparisons: Paired over") for b in blocks)
    assert report.provenance.judges
    assert {"tinystories/valid", "sentiment_prompts/neutral"} <= set(report.provenance.data)
    page = write_report(report, tmp_path / "out")[2].read_text(encoding="utf-8")
    assert all(part.capitalize() in page for part in quick.PARTS)
    again = evaluate("quick", ["smollm2 * positive=0.4", "smollm2"], settings=settings, data=data, cache=cache)
    assert again.measures == report.measures
    assert again.sections == report.sections


def test_parts_must_be_known() -> None:
    settings = quick.Settings.sized("small").model_copy(update={"parts": ("perplexity", "magic")})
    with pytest.raises(InputError, match="parts are some of perplexity"):
        evaluate("quick", "smollm2", settings=settings)
