"""Claims about samplers, run small: they can hold, and they can fail."""

import json
from pathlib import Path

import pytest

from factorlm.errors import InputError
from factorlm.evaluation.claims import run_claim, samplers
from factorlm.evaluation.workbench import Cache
from factorlm.models import CausalLM

CACHE = Cache(None)


def test_particles_reach_the_product_and_too_few_do_not() -> None:
    few = samplers.ParticleSettings(pairs=2, numbers=(2, 16), draws=1500)
    assert run_claim("particles-reach-the-product", settings=few, cache=CACHE).outcome.verdict == "holds"
    same = samplers.ParticleSettings(pairs=1, numbers=(8, 2), draws=1500)
    assert run_claim("particles-reach-the-product", settings=same, cache=CACHE).outcome.verdict == "does not hold here"


def test_guesses_and_other_libraries_are_read_from_their_records(tmp_path: Path) -> None:
    row = {"benchmark": "tokens per second with guesses from the text / without", "low": 1.5, "high": 2.5, "ratio": 2.0}
    (tmp_path / "speed.jsonl").write_text(json.dumps(row) + "\n")
    assert run_claim("guesses-pay", benchmarks=tmp_path, cache=CACHE).outcome.verdict == "holds"
    (tmp_path / "speed.jsonl").write_text(json.dumps(row | {"low": 0.9}) + "\n")
    assert run_claim("guesses-pay", benchmarks=tmp_path, cache=CACHE).outcome.verdict == "does not hold here"
    (tmp_path / "speed.jsonl").write_text("")
    with pytest.raises(InputError, match="times with guesses"):
        run_claim("guesses-pay", benchmarks=tmp_path, cache=CACHE)

    def rows(loop: float, particles: float) -> str:
        found = [
            {"kind": kind, "terms": 2, "library": library, "ratio": ratio}
            for kind, library, ratio in (
                ("prompts", "factorlm", 1.0), ("prompts", "loop", loop), ("particles", "factorlm", 1.0),
                ("particles", "genlm-control", particles),
            )
        ]  # fmt: skip
        return json.dumps({"rows": found, "machine": "here"})

    for loop, particles, verdict in ((3.0, 2.0, "holds"), (0.9, 2.0, "does not hold here")):
        (tmp_path / "rivals_speed.json").write_text(rows(loop, particles))
        assert run_claim("faster-than-others", benchmarks=tmp_path, cache=CACHE).outcome.verdict == verdict


@pytest.mark.model
def test_a_twist_is_learned_and_compared(lm: CausalLM) -> None:
    small = samplers.TwistSettings(prompts=("The food was",), texts=48, particles=4, runs=6, max_tokens=6)
    outcome = run_claim("twist-tightens-bound", settings=small, cache=CACHE).outcome
    assert outcome.verdict in ("holds", "not shown", "does not hold here")
    assert len(outcome.numbers["log_z"]["with"]) == 6
