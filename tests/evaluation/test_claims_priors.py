"""Claims about distributions over models, from made-up records of the suite: they can hold, and they can fail."""

import json
from pathlib import Path

import pytest

from factorlm.errors import InputError
from factorlm.evaluation.claims import CLAIMS, priors, run_claim
from factorlm.evaluation.workbench import Cache

Range = tuple[float, float, float]


def record(folder: Path, measures: dict[str, dict[str, Range]]) -> Path:
    found = {
        measure: {of: {"value": value, "low": low, "high": high, "n": 9} for of, (value, low, high) in values.items()}
        for measure, values in measures.items()
    }
    for name in ("prior", "prior-text"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "report.json").write_text(
            json.dumps({"measures": found, "provenance": {"machine": "here", "commit": "abc"}})
        )
    return folder


def worlds(purity: float, ratio: Range) -> dict[str, dict[str, Range]]:
    others = {"ensemble": (0.01, 0.0, 0.02), "one model": (0.0, 0.0, 0.0)}
    return {"purity of worlds": {"μ": (purity, purity, purity)}, "belief coherence R": {"μ": ratio, **others}}


CASES = [
    ("components-hold-rival-worlds", worlds(0.95, (0.8, 0.7, 0.9)), "holds"),
    ("components-hold-rival-worlds", worlds(0.85, (0.8, 0.7, 0.9)), "does not hold here"),
    ("components-hold-rival-worlds", worlds(0.95, (0.3, 0.2, 0.4)), "does not hold here"),
    ("components-hold-rival-worlds", worlds(0.95, (0.6, 0.4, 0.8)), "not shown"),
    ("mixture-beats-one-model", {"nats per token, mixture minus": {"one model": (-0.2, -0.3, -0.1)}}, "holds"),
    ("mixture-beats-one-model", {"nats per token, mixture minus": {"one model": (0.0, -0.1, 0.1)}}, "not shown"),
    ("mixture-beats-one-model", {"nats per token, mixture minus": {"one model": (0.2, 0.1, 0.3)}},
     "does not hold here"),
    ("components-disagree-outside", {"AUROC of between components": {"all": (0.8, 0.7, 0.9)}}, "holds"),
    ("components-disagree-outside", {"AUROC of between components": {"all": (0.4, 0.3, 0.5)}}, "does not hold here"),
]  # fmt: skip
CASES += [
    ("evidence-lowers-the-negation", {"belief update, nats": {"μ": mu, "one model": (0.5, 0.3, 0.7)}}, verdict)
    for mu, verdict in (
        ((-0.5, -0.6, -0.4), "holds"), ((-0.1, -0.3, 0.1), "not shown"), ((0.2, 0.1, 0.3), "does not hold here"),
    )
]  # fmt: skip
CASES += [
    ("contrary-evidence-turns-belief",
     {"change of belief by contrary evidence": {"μ": mu, "one model, fine-tuned on it": (0.3, 0.2, 0.4)}}, verdict)
    for mu, verdict in (
        ((0.9, 0.8, 1.0), "holds"), ((0.4, 0.3, 0.5), "not shown"), ((0.2, 0.1, 0.3), "does not hold here"),
    )
]  # fmt: skip

CASES += [
    ("tilted-components-steer",
     {f"mean probability by {judge}": {"untilted": (0.5, 0.45, 0.55), "components, T=0.5": weak,
                                       "components, T=0.1": strong, "tokens, 0.1": (0.1, 0.0, 0.2)}
      for judge in ("one", "other")}, verdict)
    for weak, strong, verdict in (
        ((0.6, 0.55, 0.65), (0.7, 0.65, 0.75), "holds"), ((0.6, 0.55, 0.65), (0.55, 0.5, 0.6), "not shown"),
        ((0.6, 0.57, 0.65), (0.5, 0.45, 0.55), "does not hold here"),
    )
]  # fmt: skip
CASES += [
    ("learned-layers-beat-random",
     {"layers: nats per token saved by the learned order, fine-tuned with layers dropped":
      {"27 of 30 layers": (0.2, 0.1, 0.3), "15 of 30 layers": few},
      "layers: nats per token saved by the learned order, as it is": {"27 of 30 layers": (-0.2, -0.3, -0.1)}}, verdict)
    for few, verdict in (
        ((0.5, 0.3, 0.7), "holds"), ((0.1, -0.1, 0.3), "not shown"), ((-0.2, -0.3, -0.1), "does not hold here"),
    )
]  # fmt: skip


@pytest.mark.parametrize(("name", "measures", "verdict"), CASES)
def test_verdicts(name: str, measures: dict[str, dict[str, Range]], verdict: str, tmp_path: Path) -> None:
    outcome = run_claim(name, benchmarks=record(tmp_path, measures), cache=Cache(None)).outcome
    assert outcome.verdict == verdict
    [file] = (
        f for f in ("prior/report.json", "prior-text/report.json") if CLAIMS[name].needs == (f"benchmarks/records/{f}",)
    )
    assert outcome.numbers["record"] == {"file": file, "commit": "abc", "machine": "here"}


def test_every_claim_about_priors_is_tried_here() -> None:
    own = {name for name, claim in CLAIMS.items() if claim.made_by in (priors.PRIOR, priors.TEXT)}
    assert own == {name for name, *_ in CASES}


def test_without_the_record_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="factorlm eval prior"):
        run_claim("components-hold-rival-worlds", benchmarks=tmp_path, cache=Cache(None))
