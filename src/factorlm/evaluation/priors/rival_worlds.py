"""Rival worlds: what mu keeps apart, one model averages. Beliefs, answers, and likelihood of documents never read."""

# Axes: K components, N documents, S statements.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.diversity import distinct, self_bleu, words_of
from factorlm.evaluation.document import Cell, Column, Matrix, Samples, Section, Table
from factorlm.evaluation.intervals import Estimate, compare, mean_interval, ratio_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.arms import BLEND, CONSTANT, ENSEMBLE, MU, Arm, make_arms
from factorlm.evaluation.priors.coherence import Beliefs, beliefs_of, updates
from factorlm.evaluation.priors.evidence import EvidenceSettings, measure_evidence
from factorlm.evaluation.priors.in_context import updates_in_context
from factorlm.evaluation.priors.recovery import purity
from factorlm.evaluation.priors.worlds import Worlds, WorldSettings, contradicts, make_worlds
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.prior import Fitting, Learning
from factorlm.prior.batches import score_rows
from factorlm.prior.lora import LoraComponentSettings
from factorlm.settings import Config
from factorlm.text import TextStream

Array = NDArray[np.float64]
R, DELTA, NATS = "belief coherence R", "belief update, nats", "held-out nats per token"
EVERY_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class RivalWorlds(Config):
    """Settings of this part.

    Attributes:
        worlds: documents.
        fitting: of mu; the others follow from it. Its number of components is that of the worlds.
        answers: texts written in each way.
        max_tokens: of each.
        evidence: how evidence is tried.
    """

    worlds: WorldSettings = WorldSettings()
    fitting: Fitting = Fitting(
        kind="lora",
        begin="regressions",
        longest=128,
        learning=Learning(warm=1, rounds=3, patience=3, temper_tokens=64.0, dev_share=0.0),
        lora=LoraComponentSettings(rank=4, layers=EVERY_LAYER, learning_rate=5e-3, batch_tokens=256),
    )
    answers: PositiveInt = 48
    max_tokens: PositiveInt = 28
    evidence: EvidenceSettings = EvidenceSettings()


@dataclass(frozen=True, eq=False)
class Work:
    """What the sections are made from.

    Attributes:
        worlds: documents and facts.
        arms: the ways.
        resp_NK: responsibilities of mu's components for held-out documents.
        world_of_K: the world that each of these components took, by held-out documents.
        belief: of each way.
        delta_S: of each way, for each statement.
        nats_N: of held-out documents in each way that has a likelihood of its own, per token.
        answers: texts that each way wrote, with the component that wrote them.
    """

    worlds: Worlds
    arms: list[Arm]
    resp_NK: Tensor
    world_of_K: tuple[int, ...]
    belief: dict[str, Beliefs]
    delta_S: dict[str, Array]
    nats_N: dict[str, Array]
    answers: dict[str, list[tuple[str, str]]]

    @property
    def purity(self) -> float:
        """Of responsibilities."""
        return purity(self.worlds.held_out_world_of, self.resp_NK.argmax(1).tolist())


def measure_worlds(bench: Workbench, settings: RivalWorlds) -> Part:
    """Learn in all ways, then ask what each believes and how it answers."""
    work = _learned(bench, settings)
    measures = _measures(work, bench.seed)
    sections = (_components(work), _beliefs(work, measures), _written(work, measures, bench.seed))
    better = compare(NATS, (MU, work.nats_N[MU]), (CONSTANT, work.nats_N[CONSTANT]), lower_is_better=True,
                     seed=bench.seed)  # fmt: skip
    evidence = measure_evidence(bench, settings.evidence, work.worlds, work.arms, work.world_of_K)
    headlines = (
        f"Rival worlds: components of μ take {work.purity:.0%} of the held-out documents to the right world.",
        f"Belief coherence R is {measures[R][MU]} for μ and {measures[R][ENSEMBLE]} for an ensemble; one model has 0.",
        f"Evidence for a statement changes the log probability of its negation by {measures[DELTA][MU]} nats under μ, "
        f"and by {measures[DELTA][CONSTANT]} in one model that reads it first.",
        f"Held-out documents cost μ {measures[NATS][MU]} nats per token, one model {measures[NATS][CONSTANT]} "
        f"(difference {better.difference}: {better.verdict}).",
    )
    cautions = (
        "The worlds are made up, and their sentences simple: what is shown is that the mechanism works, not how often "
        "real texts are of this kind.",
        "Belief coherence is 0 for one model and for a blend by definition, whatever they were trained on.",
        f"Each member of the ensemble passed over the documents as often as one model: {len(work.world_of_K)} times "
        "the compute of the other ways.",
    )
    return Part((*sections, *evidence.sections), {**measures, **evidence.measures},
                (*headlines, *evidence.headlines), (*cautions, *evidence.cautions))  # fmt: skip


def _learned(bench: Workbench, settings: RivalWorlds) -> Work:
    lm = bench.models[0].model.lm
    worlds = make_worlds(settings.worlds)
    bench.used["rival worlds"] = fingerprint([*worlds.documents, *worlds.held_out])
    arms = make_arms(bench, lm, worlds.documents, settings.fitting.model_copy(update={"components": worlds.num_worlds}))
    rows = [lm.encode_text(text) for text in worlds.held_out]
    lengths_N = np.array([len(row) for row in rows])
    log_lik = {a.name: score_rows(a.prior.ensemble, rows, lm.start_ids) for a in arms if a.mode == "response"}
    resp_NK = (arms[0].prior.log_prob_K + log_lik[MU]).softmax(1)
    label_N = resp_NK.argmax(1).tolist()
    own = [[w for w, k in zip(worlds.held_out_world_of, label_N, strict=True) if k == c]
           for c in range(worlds.num_worlds)]  # fmt: skip
    return Work(
        worlds=worlds, arms=arms, resp_NK=resp_NK,
        world_of_K=tuple(Counter(found).most_common(1)[0][0] if found else -1 for found in own),
        belief={arm.name: beliefs_of(arm.prior, worlds.pairs) for arm in arms},
        delta_S={
            a.name: updates_in_context(a.prior, a.mode, worlds.pairs) if a.is_one else updates(a.prior, worlds.pairs)
            for a in arms
        },
        nats_N={
            a.name: -(a.prior.log_prob_K + log_lik[a.name]).logsumexp(1).numpy() / lengths_N
            for a in arms if a.name in log_lik and a.sampling == Sampling()
        },
        answers={arm.name: _answers(bench, arm, settings) for arm in arms},
    )  # fmt: skip


def _answers(bench: Workbench, arm: Arm, settings: RivalWorlds) -> list[tuple[str, str]]:
    """Texts from the start of a text on, with the component that wrote each."""
    lm = arm.prior.lm
    generator = torch.Generator().manual_seed(bench.seed)
    component_B = arm.prior.draw(settings.answers, generator)
    factor = arm.prior.blend if arm.mode == "blend" else arm.prior.per_response(component_B)
    rows = [
        Row(list(lm.start_ids), generator_of(bench.seed, lm.start_ids, i), TextStream(()))
        for i in range(settings.answers)
    ]
    total = settings.max_tokens * len(rows)
    for done, _ in enumerate(sample_local(factor, rows, max_tokens=settings.max_tokens, sampling=arm.sampling), 1):
        bench.report(f"answers of {arm.name}", done, total)
    bench.report(f"answers of {arm.name}", total, total)
    names = [BLEND if arm.mode == "blend" else arm.prior.names[k] for k in component_B.tolist()]
    return [(name, _whole(row.stream.text)) for name, row in zip(names, rows, strict=True)]


def _whole(text: str) -> str:
    """Up to the end of the last whole sentence."""
    return text[: text.rfind(".") + 1]


def _measures(work: Work, seed: int) -> dict[str, dict[str, Estimate]]:
    right_N = [
        float(work.world_of_K[k] == world)
        for k, world in zip(work.resp_NK.argmax(1).tolist(), work.worlds.held_out_world_of, strict=True)
    ]
    ratio = {
        arm.name: Estimate(value=0.0, n=len(work.worlds.pairs)) if arm.is_one
        else _ratio(work.belief[arm.name], seed) for arm in work.arms
    }  # fmt: skip
    return {
        "purity of worlds": {MU: mean_interval(right_N, seed=seed)},
        R: ratio,
        DELTA: {name: mean_interval(delta_S, seed=seed) for name, delta_S in work.delta_S.items()},
        NATS: {name: mean_interval(nats_N, seed=seed) for name, nats_N in work.nats_N.items()},
    }


def _ratio(belief: Beliefs, seed: int) -> Estimate:
    """Sum of variances over sum of disagreements, over statements."""
    return ratio_interval(belief.variance_S, belief.disagreement_S, seed=seed)


def _components(work: Work) -> Section:
    worlds, resp_NK = work.worlds, work.resp_NK
    owner_N = torch.tensor(worlds.held_out_world_of)
    mean_KW = [[float(resp_NK[owner_N == w, k].mean()) for w in range(worlds.num_worlds)]
               for k in range(worlds.num_worlds)]  # fmt: skip
    disputed = [fact for fact in worlds.facts if fact.is_disputed]
    facts = Table(
        title="Some facts that worlds disagree in",
        columns=(Column(title="fact"), *(Column(title=f"world {w + 1}") for w in range(worlds.num_worlds))),
        rows=tuple((fact.question, *fact.answers) for fact in disputed[:: max(1, len(disputed) // 6)]),
    )
    picture = Matrix(
        title="Mean responsibility of components for held-out documents",
        row_label="component", column_label="written under",
        rows=work.arms[0].prior.names, columns=tuple(f"world {w + 1}" for w in range(worlds.num_worlds)),
        values=tuple(tuple(row) for row in mean_KW),
        note=f"Purity {work.purity:.3f}: share of documents that go to the component of their world.",
    )  # fmt: skip
    lead = (
        f"{len(worlds.documents)} documents, each written under one of {worlds.num_worlds} worlds that agree within "
        "themselves; components are learned without knowing which."
    )
    return Section(title="Rival worlds", lead=lead, blocks=(facts, picture))


def _beliefs(work: Work, measures: dict[str, dict[str, Estimate]]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for arm in work.arms:
        belief = work.belief[arm.name]
        within = belief.across_S if arm.is_one else belief.within_S
        rows.append(
            (arm.name, arm.num_parameters, arm.num_passes, measures[R][arm.name], float(within.mean()),
             float(belief.across_S.mean()), measures[DELTA][arm.name], measures[NATS].get(arm.name))
        )  # fmt: skip
    columns = (
        Column(title="way"), Column(title="numbers trained", form=",d"), Column(title="passes over texts", form="g"),
        Column(title="R", form=".2f", best="high"), Column(title="contradiction within", form=".2f", best="low"),
        Column(title="contradiction across", form=".2f"), Column(title="Δ, nats", form="+.2f", best="low"),
        Column(title="held-out nats per token", form=".3f", best="low"),
    )  # fmt: skip
    note = (
        "R: share of all disagreement of two independent answers that lies between components. Within: probability "
        "that two answers of one component contradict each other; across: of components drawn anew. Δ: change of the "
        "log probability of a negation once the statement was observed, which re-weighs components where there are "
        "several, and is read first where there is one model."
    )
    table = Table(title="What each way believes", columns=columns, rows=tuple(rows), note=note)
    lead = f"{len(work.worlds.pairs)} statements and their negations, equally long, each a text of its own."
    return Section(title="Beliefs", lead=lead, blocks=(table,))


def _written(work: Work, measures: dict[str, dict[str, Estimate]], seed: int) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for arm in work.arms:
        texts = [text for _, text in work.answers[arm.name]]
        truths = [work.worlds.truths(text) for text in texts]
        several = [found for found in truths if len(found) > 1]
        contrary = [float(contradicts(found)) for found in several]
        best = [int(np.mean(found, 0).argmax()) for found in truths if found]
        statements = sum(len(text.split(".")) - 1 for text in texts)
        known = sum(len(found) for found in truths) / statements if statements else None
        measures.setdefault("answers that no world allows", {})[arm.name] = mean_interval(contrary, seed=seed)
        worlds = _entropy(best)
        words = [words_of(text) for text in texts if words_of(text)]
        rows.append((arm.name, measures["answers that no world allows"][arm.name], known, worlds,
                     distinct(words, 2) if words else None, self_bleu(words) if len(words) > 1 else None))  # fmt: skip
    columns = (
        Column(title="way"), Column(title="answers that no world allows", form=".0%", best="low"),
        Column(title="statements about known things", form=".0%", best="high"),
        Column(title="worlds among answers", form=".2f", best="high"), Column(title="distinct-2", form=".2f"),
        Column(title="self-BLEU", form=".2f"),
    )  # fmt: skip
    note = (
        "Of answers with two statements or more, those of which no world makes all true; exp of the entropy of the "
        "worlds that fit answers best; distinct-2 and self-BLEU are diversity of words, not of worlds."
    )
    table = Table(title="What each way writes", columns=columns, rows=tuple(rows), note=note)
    shown = Samples(
        title="Answers",
        texts=tuple((f"{arm.name}: {who}", "", text) for arm in work.arms for who, text in work.answers[arm.name][:3]),
    )
    lead = f"{len(work.answers[MU])} texts in each way, drawn from the start of a text on."
    return Section(title="Answers", lead=lead, blocks=(table, shown))


def _entropy(items: Sequence[int]) -> float | None:
    """Exp of the entropy of how often each comes."""
    if not items:
        return None
    share = np.array(list(Counter(items).values())) / len(items)
    return float(np.exp(-(share * np.log(share)).sum()))
