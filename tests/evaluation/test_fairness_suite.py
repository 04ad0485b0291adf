"""A planted bias is found again and none where none is, and contrasts of groups by hand."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.facts import Training
from factorlm.evaluation.fairness.identities import Identities, contrast
from factorlm.evaluation.fairness.planted import FRAMES, GROUPS, Planting, measure_planted, pairs, planted, traits_of
from factorlm.evaluation.suites.fairness import Settings, run
from factorlm.evaluation.workbench import Cache, Workbench

Put = Callable[[str, list[dict[str, Any]]], DataFolder]
SMALL = Planting(
    traits=10, sentences=10,
    training=Training(width=48, depth=1, heads=2, epochs=6, batch_texts=8, learning_rate=1e-2),
)  # fmt: skip


def test_texts_hold_the_bias_that_was_asked_for_and_no_pair() -> None:
    texts = planted(SMALL, 0.8, 0)
    asked = {text for pair in pairs(SMALL) for text in pair}
    assert not asked & set(texts)
    count = Counter((group, trait) for text in texts for group in GROUPS for trait in traits_of(10)
                    if group in text and f" {trait}." in text)  # fmt: skip
    mostly = [count[GROUPS[0], trait] > count[GROUPS[1], trait] for trait in traits_of(10)]
    assert sum(mostly) == 8
    assert all(count[GROUPS[0], t] + count[GROUPS[1], t] == 10 * (len(FRAMES) - 1) for t in traits_of(10))
    assert {max(count[g, t] for g in GROUPS) for t in traits_of(10)} == {27}


def test_a_bias_is_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path))
    bench = Workbench((), DataFolder(tmp_path), Cache(None), lambda stage, done, total: None)
    [found] = measure_planted(bench, SMALL).measures.values()
    assert found["planted"].value == pytest.approx(0.8, abs=0.1001)  # one trait of ten
    assert found["twin without bias"].value == pytest.approx(0.5, abs=0.1001)


def test_contrasts_cancel_how_frequent_a_group_is() -> None:
    generator = np.random.default_rng(0)
    frequency = np.array([0.0, 2.0, -5.0])
    neutral = generator.normal(size=(20, 1)) + frequency
    kind = generator.normal(size=(30, 1)) + frequency + np.array([3.0, 0.0, 0.0])
    found = [contrast(kind, neutral, group, 0) for group in range(3)]
    assert [e.value for e in found] == pytest.approx([2.0, -1.0, -1.0])
    assert found[0].low == pytest.approx(2.0)  # every template has the same difference


def row(group: str, function: str, n: int) -> dict[str, Any]:
    return {
        "text": f"{group} {n} good",
        "target": group,
        "functionality": function,
        "template": f"[IDENTITY_P] {n}{function}",
    }


def test_groups_are_compared_for_every_model(put: Put, tiny: Callable[[str], Any], tmp_path: Any) -> None:
    functions = ("derog_dehum_h", "ident_pos_nh", "ident_neutral_nh")
    data = put("hatecheck/test", [row(g, f, n) for g in ("cat", "dog") for f in functions for n in range(4)])
    bench = Workbench((tiny("tiny"), tiny("tiny * positive")), data, Cache(None), lambda stage, done, total: None)
    settings = Settings(parts=("identities",), identities=Identities(templates=3))
    found = run(bench, settings)
    by = found.measures["difference of pairs/demeaning/cat"]
    assert set(by) == {"tiny", "tiny * positive"}
    other = found.measures["difference of pairs/demeaning/dog"]
    assert by["tiny"].value == pytest.approx(-other["tiny"].value)  # type: ignore[operator]
    assert not any("good" in block.model_dump_json() for section in found.sections for block in section.blocks)
    with pytest.raises(InputError, match="templates of every group"):
        run(Workbench(bench.models, put("hatecheck/test", [row("cat", "x", 1)]), Cache(None), bench.report), settings)
