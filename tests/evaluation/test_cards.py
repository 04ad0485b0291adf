"""Cards as reports: what they say of a factor, and what they admit."""

from factorlm.evaluation.cards import card, cautions, headlines
from factorlm.evaluation.document import Curve
from factorlm.evaluation.report.page import page
from factorlm.factors.manifest import Calibration, Change, Dose, LexiconSettings, Manifest, Response
from factorlm.factors.store import SHELF, Store, read_manifest


def _manifest(auc: float = 0.9, rates: tuple[float, ...] = (0.2, 0.5, 0.8), accuracy: float = 0.9) -> Manifest:
    doses = tuple(
        Dose(strength=s, rate=rate, rate_error=0.03, perplexity_ratio=1 + abs(s), distinct=0.9)
        for s, rate in zip((-0.2, 0.0, 0.2), rates, strict=True)
    )
    return Manifest(
        name="sunny",
        description="Fair <weather>.",
        settings=LexiconSettings(phrases={"sun": 1.0}),
        calibration=Calibration(scale=1.0, prior=0.0, dev_loss=0.4, dev_auc=auc),
        response=Response(judge="a judge", accuracy=accuracy, num_texts=128, num_tokens=20, doses=doses),
        changes=(Change(version="0.1.0", what="allow 'rain'"),),
    )


def test_a_card_shows_dose_response_price_and_edits() -> None:
    report = card(_manifest(), pushed=[("␣sun", 1.5)], pulled=[("␣rain", -2.0)])
    curves = [block for section in report.sections for block in section.blocks if isinstance(block, Curve)]
    assert [c.series[0].x for c in curves] == [(-0.2, 0.0, 0.2)] * 2
    assert curves[1].series[0].y == (1.2, 1.0, 1.2)
    html = page(report)
    assert "50% of the base model&#39;s texts, 80% at +0.2" in html
    assert "Fair &lt;weather&gt;." in html
    for text in ("␣sun", "␣rain", "allow &#39;rain&#39;"):
        assert text in html


def test_a_card_admits_what_falls_short() -> None:
    assert cautions(_manifest()) == []
    found = cautions(_manifest(auc=0.7, rates=(0.5, 0.5, 0.2), accuracy=0.6))
    assert [line.split(" ")[0] for line in found] == ["Its", "The", "The"]
    assert "0.70" in found[0]
    assert "60%" in found[2]


def test_every_factor_of_the_shelf_has_a_card() -> None:
    for name in Store(SHELF).names():
        manifest = read_manifest(SHELF / name)
        assert manifest.description in headlines(manifest)
        assert card(manifest).title == f"{name} {manifest.version}"
