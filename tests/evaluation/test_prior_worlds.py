"""Rival worlds: documents, measures by hand, and the whole part of the suite on a tiny model."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from factorlm.evaluation.document import Curve, Matrix, Table
from factorlm.evaluation.priors import coherence
from factorlm.evaluation.priors.arms import BLEND, CONSTANT, ENSEMBLE, MU, alone
from factorlm.evaluation.priors.coherence import Beliefs
from factorlm.evaluation.priors.evidence import EvidenceSettings, agree, make_trials
from factorlm.evaluation.priors.in_context import log_probs_after
from factorlm.evaluation.priors.recovery import purity
from factorlm.evaluation.priors.rival_worlds import DELTA, NATS, R, RivalWorlds, measure_worlds
from factorlm.evaluation.priors.worlds import WorldSettings, contradicts, make_worlds
from factorlm.prior import Fitting, Learning, Prior
from factorlm.prior.lora import LoraComponentSettings
from factorlm.prior.manifest import Base, ComponentCard, Manifest, SoftPrompts

SMALL = WorldSettings(worlds=3, people=2, things=2, lands=3, speeds=2, facts=3, documents=5, held_out=3)


def test_documents_are_true_in_their_world_and_worlds_contradict_each_other() -> None:
    worlds = make_worlds(SMALL)
    assert len(worlds.documents) == 15
    for text, world in zip(worlds.documents, worlds.world_of, strict=True):
        truths = worlds.truths(text)
        assert len(truths) == 3
        assert all(found[world] for found in truths)
        assert not contradicts(truths)
    assert make_worlds(SMALL) == worlds
    assert make_worlds(SMALL.model_copy(update={"seed": 1})).documents != worlds.documents
    for a, b in itertools.combinations(range(3), 2):
        assert not agree(worlds.facts, a, b)
    assert worlds.truths("Nobody knows. The capital of Norland is Corva.")[0].count(True) == 1
    speeds = [fact for fact in make_worlds(SMALL.model_copy(update={"speeds": 6})).facts if "Speed" in fact.question]
    assert not speeds[0].is_disputed  # low speeds: the rules agree
    assert speeds[-1].is_disputed
    assert "make 99." in speeds[-1].answers[1]  # 0.9 and 0.9 of the speed of light by Einstein: 0.994
    assert "make 180." in speeds[-1].answers[0]


def test_contradiction_and_purity_by_hand() -> None:
    assert contradicts([[True, False], [False, True]])
    assert not contradicts([[True, False], [True, True]])
    assert not contradicts([])
    assert purity([0, 0, 1, 1, 1], [2, 2, 0, 0, 2]) == 4 / 5


def test_coherence_ratio_is_the_share_of_disagreement_between_components() -> None:
    """Against probabilities that two drawn answers contradict each other, by enumeration."""
    rng = np.random.default_rng(0)
    weight_K, prob_SK = np.array([0.5, 0.3, 0.2]), rng.random((4, 3))
    found = Beliefs(weight_K, prob_SK)
    for s in range(4):
        within = sum(w * 2 * p * (1 - p) for w, p in zip(weight_K, prob_SK[s], strict=True))
        across = sum(
            weight_K[i] * weight_K[j] * (prob_SK[s, i] * (1 - prob_SK[s, j]) + prob_SK[s, j] * (1 - prob_SK[s, i]))
            for i in range(3) for j in range(3)
        )  # fmt: skip
        assert found.within_S[s] == pytest.approx(within)
        assert found.across_S[s] == pytest.approx(across)
        assert found.ratio_S[s] == pytest.approx((across - within) / across)
    certain = Beliefs(np.array([0.5, 0.5]), np.array([[1.0, 0.0], [1.0, 1.0], [0.4, 0.4]]))
    assert certain.ratio_S[0] == 1
    assert math.isnan(certain.ratio_S[1])
    assert certain.ratio_S[2] == pytest.approx(0)


@pytest.fixture
def prior(tiny_lm: Any) -> Prior:
    soft_KMD = 2 * torch.randn(2, 2, tiny_lm.width, generator=torch.Generator().manual_seed(1))
    cards = tuple(ComponentCard(name=n, weight=w, learned_weight=w) for n, w in (("a", 0.6), ("b", 0.4)))
    base = Base(name=tiny_lm.name, fingerprint=tiny_lm.fingerprint)
    return Prior(Manifest(kind=SoftPrompts(places=2), base=base, components=cards), {"soft": soft_KMD}, tiny_lm)


def test_updates_by_hand(prior: Prior) -> None:
    """Delta of a statement: the log ratio of what the negation is worth after and before."""
    pairs = [("the good", "the bad"), ("a cat", "a tree")]
    log_prob_NK = prior.log_likelihood([text for pair in pairs for text in pair])
    weight_K = torch.tensor([0.6, 0.4], dtype=torch.float64)
    for (s, n), delta in zip(((0, 1), (2, 3)), coherence.updates(prior, pairs), strict=True):
        after_K = weight_K * log_prob_NK[s].exp()
        after_K = after_K / after_K.sum()
        want = math.log(float(after_K @ log_prob_NK[n].exp())) - math.log(float(weight_K @ log_prob_NK[n].exp()))
        assert delta == pytest.approx(want, abs=1e-9)
    found = coherence.beliefs_of(prior, pairs)
    want_K = torch.sigmoid(log_prob_NK[0] - log_prob_NK[1])
    assert found.prob_SK[0] == pytest.approx(want_K.numpy())


def test_one_model_reads_evidence_first(prior: Prior) -> None:
    """The log probability after evidence is that of both texts less that of the evidence."""
    lm = prior.lm
    [found] = log_probs_after(prior, "response", "the good.", ["a bad cat"])
    component = prior.ensemble.component(0)

    def whole(text: str) -> float:
        ids = torch.tensor([lm.encode_text(text)])
        return float(component.score(torch.tensor([lm.start_ids]), ids).double().sum())

    assert found == pytest.approx(whole("the good. a bad cat") - whole("the good."), abs=1e-3)


def test_trials_leave_one_world_and_something_unmentioned() -> None:
    worlds = make_worlds(WorldSettings(worlds=3, people=3, things=3, lands=3))
    trials = make_trials(worlds, EvidenceSettings(trials=10), seed=0)
    assert len(trials) == 10
    for trial in trials:
        for other in range(3):
            holds = [any(f.answers[other] == text for f in worlds.facts) for text in trial.first]
            assert all(holds) == (other == trial.world)
        said = {*trial.first, *trial.later}
        assert trial.unmentioned
        assert not any(statement in said or negation in said for statement, negation in trial.unmentioned)


def test_rivals_have_equal_numbers_and_passes() -> None:
    settings = Fitting(kind="lora", components=3, learning=Learning(warm=2, rounds=5))
    one = alone(settings, times=3)
    assert one.lora.rank == 3 * settings.lora.rank
    assert one.components == 1
    assert one.learning.warm + one.learning.rounds == 7


def test_the_part_on_a_tiny_model(tiny: Any, bench: Any) -> None:
    """All ways are learned and measured; what must hold by definition does, and the tables say so."""
    settings = RivalWorlds(
        worlds=SMALL.model_copy(update={"worlds": 2, "documents": 8, "held_out": 4, "people": 3, "things": 3}),
        fitting=Fitting(
            kind="lora", begin="random", learning=Learning(warm=1, rounds=2, temper_tokens=400.0),
            lora=LoraComponentSettings(rank=2, learning_rate=0.02, batch_tokens=512),
        ),
        answers=6, max_tokens=12, evidence=EvidenceSettings(trials=3, tuned_trials=1, steps=2, contrary=2),
    )  # fmt: skip
    made = bench(tiny("smollm2"))
    part = measure_worlds(made, settings)
    ways = {MU, CONSTANT, BLEND, ENSEMBLE}
    assert ways <= set(part.measures[R])
    assert part.measures[R][CONSTANT].value == part.measures[R][BLEND].value == 0
    assert 0 < (part.measures[R][MU].value or 0) <= 1
    assert set(part.measures[NATS]) == {MU, CONSTANT, ENSEMBLE}
    assert set(part.measures[DELTA]) >= ways
    titles = [section.title for section in part.sections]
    assert titles == ["Rival worlds", "Beliefs", "Answers", "Evidence"]
    blocks = [block for section in part.sections for block in section.blocks]
    assert {type(block) for block in blocks} >= {Table, Matrix, Curve}
    table = next(b for b in blocks if isinstance(b, Table) and b.title == "What each way believes")
    trained = {row[0]: row[1] for row in table.rows}
    assert trained[MU] == trained[CONSTANT] == trained[ENSEMBLE]  # equal trained numbers
    again = measure_worlds(made, settings)  # from the cache
    assert again.measures == part.measures
    assert len(part.headlines) >= 4
