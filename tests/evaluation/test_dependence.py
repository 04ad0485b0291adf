"""The report on dependence says what was measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from factorlm.evaluation.dependence import dependence_report, pair_estimates
from factorlm.evaluation.document import Matrix, Report, Table
from factorlm.evaluation.report import write_report
from factorlm.factors import bind, lexicon
from factorlm.factors.decorrelation import decorrelated
from factorlm.factors.dependence import dependence
from factorlm.factors.head import Head
from factorlm.factors.potentials import Potentials, texts_of
from factorlm.models import CausalLM


def test_a_report_holds_the_numbers(tiny_lm: CausalLM, make_head: Callable[..., Head], tmp_path: Path) -> None:
    head = make_head(3, 2)
    ban = bind(lexicon(["zz"], ban=True, name="ban", whole_word=False), tiny_lm)
    factors, exponents = (head, replace(head, name="copy"), ban), [0.5, 0.5, 1.0]
    texts = texts_of(tiny_lm, [f"the {word} book" for word in "abcdefghijkl"])
    found = dependence(Potentials(tiny_lm, factors), texts)
    refit = decorrelated(tiny_lm, list(zip(factors, exponents, strict=True)))
    report = dependence_report(
        found, exponents, refit, model="tiny", corpus="books", command="factorlm", seed=0, seconds=1.0
    )
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert "push the same tokens" in " ".join(report.headlines)
    local, words, table = (report.sections[i].blocks[0] for i in (0, 2, 3))
    assert isinstance(local, Matrix)
    assert local.values[0][1] == pytest.approx(1, abs=1e-6)
    assert local.values[2] == (None, None, None)  # a ban has no correlation
    assert isinstance(words, Table)
    assert words.rows[0][:2] == ("head3-2, copy", found.shared[0, 1].num_together)
    assert isinstance(table, Table)
    assert [row[2] for row in table.rows] == list(refit.exponents_after)
    estimate = pair_estimates(found)[0, 1]
    assert estimate.value == pytest.approx(1, abs=1e-6)
    assert report.measures["correlation over texts of head3-2 and copy"]["tiny"] == estimate
    assert [path.name for path in write_report(report, tmp_path)][:3] == ["report.json", "report.md", "report.html"]
    assert (
        dependence_report(
            found, exponents, None, model="tiny", corpus="books", command="factorlm", seed=0, seconds=1.0
        ).sections
        == report.sections[:3]
    )
