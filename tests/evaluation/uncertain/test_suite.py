"""The suite, run over small planted worlds: each part has its measures, and the claims read them."""

from collections.abc import Callable
from typing import Any

import pytest

from factorlm.evaluation.claims import uncertain as claims
from factorlm.evaluation.facts import Training, WorldSettings
from factorlm.evaluation.suites.uncertainty import Settings, run
from factorlm.evaluation.uncertain.knowing import Knowing
from factorlm.evaluation.uncertain.planted import Planted
from factorlm.evaluation.uncertain.temperature import TemperatureSensitivity
from factorlm.inference.uncertainty import Asking

WORLD = WorldSettings(subjects=16, relations=2, objects=4, first_names=4, frequencies=(0, 2, 8, 24))
TRAINING = Training(width=32, depth=2, heads=2, epochs=6, batch_texts=16, learning_rate=1e-2)
ASKING = Asking(samples=4, max_tokens=4, temperature=1.0, stop=(".", "\n"))


@pytest.fixture
def found(bench: Callable[..., Any], tiny: Callable[..., Any]) -> Any:
    settings = Settings(
        parts=("planted", "known", "temperature"),
        planted=Planted(
            world=WORLD, training=TRAINING, strangers=0, asking=ASKING, worded=WORLD, worded_training=TRAINING
        ),
        known=Knowing(world=WORLD, training=TRAINING, strangers=0, asking=ASKING, resamples=50),
        temperature=TemperatureSensitivity(world=WORLD, training=TRAINING, strangers=0, asking=ASKING, questions=24),
    )
    return run(bench(tiny("tiny")), settings)


@pytest.mark.slow
def test_the_planted_parts_measure_what_claims_read(found: Any) -> None:
    measures = found.measures
    by_frequency = [measures["accuracy by frequency"][str(f)].value for f in WORLD.frequencies]
    assert by_frequency[-1] > by_frequency[0]  # 8 facts each; what was stated 24 times is known, what never was is not
    steps = "TSU 0.3 < 0.7 < 1 < 1.4"
    assert measures[steps]["exact entropy of the first token"].value == 1.0
    assert measures[steps]["shuffled"].value < 0.25  # 24 questions at a chance of 1/24: more than 6 is one in 100,000
    assert set(measures["rise of P(IK)"]) == {"behind its fact", "behind another fact"}
    assert set(measures["AUROC of P(IK)"]) == {"in domain", "out of domain"}
    for decided in (claims._inverse, claims._temperature, claims._knows, claims._helps, claims._meanings):
        said, _, verdict = decided(measures)
        assert said
        assert verdict in ("holds", "does not hold here", "not shown")
    titles = [section.title for section in found.sections]
    assert titles == ["Planted facts", "Wordings and meanings", "Self-knowledge", "Temperature"]
