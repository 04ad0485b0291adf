"""factorlm factor correlate: what it prints, writes and refuses."""

import json
import math
from pathlib import Path

import pytest
import torch

from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.store import default_stores
from factorlm.models import CausalLM

from .conftest import Run
from .test_errors import one_line

TEXTS = (
    "I loved this place, wonderful food and lovely people!",
    "I hated it. Terrible service, and the waiter was an idiot.",
    "The meeting is on Monday at noon.",
    "What a stupid, disgusting film.",
    "A warm and funny story that everyone should read.",
    "The train leaves from platform four.",
    "You are a moron and nobody likes you.",
    "The garden was beautiful in the morning light.",
    "This recipe needs two eggs and some flour.",
    "It broke after a day, what rubbish.",
)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    return path


REFUSED = {
    "one factor": (["positive"], "at least two factors"),
    "the same twice": (["positive", "positive"], "named once"),
    "unknown factor": (["positive", "toxik"], "did you mean toxic"),
    "unknown method": (["positive", "toxic", "--method", "matchd"], "did you mean matched"),
    "a pool without texts": (["positive", "toxic", "--method", "pool"], "--corpus"),
    "a target of another": (["positive", "toxic", "--target", "polite=0.2"], "polite"),
    "a target that is no number": (["positive", "toxic", "--target", "toxic=much"], "finite number"),
    "a file for a folder": (["positive", "toxic", "--out", "corpus.txt"], "folder for the report"),
    "no corpus": (["positive", "toxic", "--corpus", "absent.txt"], "no file absent.txt"),
    "an empty corpus": (["positive", "toxic", "--corpus", "empty.txt"], "at least one text"),
    "a bad name": (["positive", "toxic", "--residual", "No Name"], "small letters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_anything_slow(case: str, run: Run, corpus: Path) -> None:
    words, wanted = REFUSED[case]
    ran = run("factor", "correlate", *words)
    assert ran.status == 2
    one_line(ran.err, wanted)
    assert ran.out == ""


def test_a_residual_is_saved_last(
    run: Run, corpus: Path, tiny_folder: Path, tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = default_stores()[0]
    card = EncoderCard(name=str(tiny_folder), fingerprint=tiny_lm.fingerprint, width=tiny_lm.width)
    for seed, name in enumerate(("mild", "kind")):
        bias_D = torch.randn(tiny_lm.width, generator=torch.Generator().manual_seed(seed))
        empty = torch.zeros(tiny_lm.width, 0)
        head = Manifest(name=name, settings=HeadSettings(rank=0), encoder=card)
        own.save(head, {"bias": bias_D, "up": empty, "down": empty.T.contiguous()})
    words = ["factor", "correlate", "mild", "kind", "--model", str(tiny_folder), "--dtype", "float32"]
    ran = run(*words, "--corpus", "few.txt", "--residual", "rest")
    assert ran.status == 2
    one_line(ran.err, "at least 8 texts")
    assert own.names() == ["kind", "mild"]
    ran = run(*words, "--corpus", "corpus.txt", "--target", "mild^1", "--residual", "rest")
    assert ran.status == 0, ran.err
    assert own.names() == ["kind", "mild", "rest"]


@pytest.mark.model
class TestOnTheDefaultModel:
    @pytest.fixture(autouse=True)
    def _needs_the_model(self, lm: object) -> None:
        """Skip with the reason of the fixture where there is no model."""

    def test_json_adds_up_and_a_report_is_written(self, run: Run, corpus: Path, tmp_path: Path) -> None:
        words = ["--corpus", str(corpus), "--target", "positive=0.4", "--target", "toxic^-1.5", "--decorrelate"]
        out = tmp_path / "report"
        ran = run("factor", "correlate", "positive", "toxic", *words, "--dtype", "float32", "--out", str(out), "--json")
        assert ran.status == 0, ran.err
        pair, factors, refit = map(json.loads, ran.out.splitlines())
        assert (pair["first"], pair["second"], pair["num_texts"]) == ("positive", "toxic", 10)
        assert -1 <= pair["text_correlation_low"] <= pair["text_correlation"] <= pair["text_correlation_high"] <= 1
        exponents, correlation = factors["exponents"], pair["correlation"]
        assert exponents[1] == -1.5
        one, two = (a * s for a, s in zip(exponents, factors["deviations"], strict=True))
        assert factors["predicted_divergence_if_independent"] == pytest.approx((one**2 + two**2) / 2)
        want = (one**2 + two**2) / 2 + correlation * one * two
        assert factors["predicted_divergence"] == pytest.approx(want)
        assert factors["effective_number"] == pytest.approx(4 / (2 + 2 * correlation**2))
        assert refit["exponents_before"] == exponents
        assert refit["movement_after"] == pytest.approx(refit["movement_alone"], rel=0.01)
        page = (out / "report.html").read_text()
        assert "<svg" in page
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert json.loads((out / "report.json").read_text())["suite"] == "dependence"

    def test_a_residual_is_a_factor(self, run: Run, corpus: Path) -> None:
        words = ["positive", "toxic", "--corpus", str(corpus), "--residual", "rude-only"]
        ran = run("factor", "correlate", *words)
        assert ran.status == 0, ran.err
        assert "worth 1.9" in ran.out or "worth 2.00" in ran.out  # nearly independent
        again = run("factor", "correlate", "positive", "rude-only", "toxic", "--corpus", str(corpus), "--json")
        lines = [json.loads(line) for line in again.out.splitlines()]
        by_pair = {(line["first"], line["second"]): line["correlation"] for line in lines[:3]}
        assert by_pair["positive", "rude-only"] == pytest.approx(0, abs=0.02)
        assert by_pair["rude-only", "toxic"] > 0.95
        assert "rude-only and toxic push the same tokens" in lines[3]["warnings"][0]
        assert math.isclose(lines[3]["effective_number"], 9 / (3 + 2 * sum(c**2 for c in by_pair.values())))
        assert run("factor", "correlate", *words).status == 2  # there is one of that name

    def test_for_people_and_with_a_pool(self, run: Run, corpus: Path) -> None:
        words = ["--corpus", str(corpus), "--decorrelate", "--method", "pool"]
        ran = run("factor", "correlate", "positive", "toxic", *words)
        assert ran.status == 0, ran.err
        assert "decorrelated (pool)" in ran.out
        assert "+1.00" in ran.out
        few = run("factor", "correlate", "positive", "toxic", "--corpus", "few.txt")
        assert few.status == 2
        one_line(few.err, "at least 8 texts")
