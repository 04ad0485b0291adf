"""Facts stated a known number of times: estimators where what the model knows is known by design."""

# Axes: B facts.

from __future__ import annotations

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from scipy.stats import spearmanr

from factorlm.evaluation.calibration import auroc, with_interval
from factorlm.evaluation.document import Block, Curve, Section, Series
from factorlm.evaluation.facts import Fact, Training, World, WorldSettings, make_corpus, make_world, train_fact_model
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.uncertain.graded import Asked, Graded, graded
from factorlm.evaluation.uncertain.scoring import Array, Measures, confidences_of, ranked
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import Composed, compose
from factorlm.inference.uncertainty import Asking, Meanings, Query, Tools
from factorlm.inference.uncertainty.estimators import encode_sentences
from factorlm.settings import Config
from factorlm.text.comparing import normalized

NAMES = ("mean-log-prob", "naive-entropy", "semantic-entropy", "discrete-semantic-entropy", "agreement", "inv-entropy")
WORDINGS = ("{object}", "the famous {object}", "surely {object}", "{object} of course")
STOPS = (".", "\n")
STRANGERS = 3000  # as `make_corpus` has them
ROWS = 256  # texts of the small model written together
SHORT = Asking(samples=10, max_tokens=5, temperature=1.0, stop=STOPS)


class Planted(Config):
    """Settings of this part.

    Attributes:
        world: of facts.
        training: of the model that reads them.
        strangers: texts that teach it to heed what stands before.
        asking: how answers are had.
        replications: answers to each variant of a question.
        worded: a second world, whose answers come in one wording or in four, by relation.
        worded_training: of its model.
    """

    world: WorldSettings = WorldSettings()
    training: Training = Training()
    strangers: NonNegativeInt = STRANGERS
    asking: Asking = SHORT
    replications: PositiveInt = 3
    worded: WorldSettings = WorldSettings(subjects=96, relations=2, seed=1)
    worded_training: Training = Training(epochs=5)


def asked_by_query(fact: Fact) -> Asked:
    """A fact as a question; its paraphrases are the variants."""
    variants = tuple(Query(fact.prompt(i), "", "") for i in range(len(fact.relation.templates)))
    return Asked(Query(fact.question, "Question: ", "\nAnswer:"), fact.is_right, fact.subject, variants)


def fact_model(bench: Workbench, world: World, training: Training, **corpus: object) -> Composed:
    """The model that read a world's corpus, trained unless it is kept."""
    texts = make_corpus(world, **corpus)  # type: ignore[arg-type]
    place = bench.cache.folder.parent / "facts" if bench.cache.folder else None
    folder = train_fact_model(world, texts, training, folder=place, report=bench.report)
    return compose(str(folder), dtype="float32", device="cpu")


def measure_planted(bench: Workbench, settings: Planted) -> Part:
    """Rank errors of facts, follow doubt over frequency, and set wordings against meanings."""
    world = make_world(settings.world)
    composed = fact_model(bench, world, settings.training, strangers=settings.strangers)
    asked = [asked_by_query(fact) for fact in world.facts]
    found = graded(bench, composed, "facts", asked, ("samples", "variants"), settings.asking,
                   replications=settings.replications, rows=ROWS)  # fmt: skip
    tools = Tools(encode_sentences, Meanings())
    confidences = confidences_of(found, NAMES, tools)
    table, measures = ranked("facts", found, confidences, bench.seed)
    by_frequency, more = _by_frequency(world, found, confidences, bench.seed)
    measures |= more
    wording, wordings = _wordings(bench, settings)
    blocks: tuple[Block, ...] = tuple(b for b in (table, *by_frequency) if b is not None)
    lead = (
        f"{len(world.facts)} invented facts, each stated 0 to {max(settings.world.frequencies)} times to a language "
        "model of its own that has read nothing else; variants of a question are statements that the answer completes."
    )
    auc = measures.get("AUROC, facts", {})
    headlines = tuple(
        f"Planted facts: {name} tells right from wrong answers with AUROC {auc[name]}; its rank correlation with how "
        f"often a fact was stated is {measures['rank correlation with frequency'][name]}."
        for name in ("inv-entropy", "mean-log-prob") if name in auc
    )  # fmt: skip
    caution = "Planted facts show what estimators do where knowledge is graded by design; real questions differ."
    return Part((Section(title="Planted facts", lead=lead, blocks=blocks), wording), {**measures, **wordings},
                headlines, (caution,))  # fmt: skip


def _by_frequency(
    world: World, found: Graded, confidences: dict[str, Array], seed: int
) -> tuple[list[Block], Measures]:
    frequency_B = np.array([fact.frequency for fact in world.facts])
    levels = sorted(set(frequency_B.tolist()))
    x = tuple(float(np.log2(1 + level)) for level in levels)
    right = [mean_interval(found.right_B[frequency_B == level], seed=seed) for level in levels]
    measures: Measures = {"accuracy by frequency": {str(k): v for k, v in zip(levels, right, strict=True)}}
    series = []
    for name, confidence_B in confidences.items():
        means = [float(confidence_B[frequency_B == level].mean()) for level in levels]
        rho = float(spearmanr(levels, means).statistic)
        measures.setdefault("rank correlation with frequency", {})[name] = Estimate(value=rho, n=len(levels))
        spread = max(means) - min(means) or 1.0
        series.append(Series(name=name, x=x, y=tuple((m - min(means)) / spread for m in means)))
    knows = Curve(title="Answers by how often the fact was stated", x_label="log2(1 + times stated)",
                  y_label="share right", is_percent=True,
                  series=(Series(name="right", x=x, y=tuple(right)),))  # fmt: skip
    picture = Curve(title="Mean confidence by how often the fact was stated", x_label="log2(1 + times stated)",
                    y_label="from least (0) to most (1) of each estimator", series=tuple(series))  # fmt: skip
    return [knows, picture], measures


def _wordings(bench: Workbench, settings: Planted) -> tuple[Section, Measures]:
    """Facts of one relation are answered in one wording, those of the other in four."""
    world = make_world(settings.worded)
    plain = world.relations[0].name

    def sentence(fact: Fact, generator: np.random.Generator) -> str:
        number = 1 if fact.relation.name == plain else len(WORDINGS)
        return fact.answered(WORDINGS[int(generator.integers(number))].replace("{object}", fact.object))

    composed = fact_model(bench, world, settings.worded_training, sentence=sentence, strangers=0)
    aliases = wording_aliases(world)

    def asked(fact: Fact) -> Asked:
        meanings = Meanings(aliases=aliases)
        return Asked(Query(fact.question, "Question: ", "\nAnswer:"),
                     lambda text: meanings.same("", text, fact.object), fact.subject)  # fmt: skip

    found = graded(bench, composed, "wordings", [asked(fact) for fact in world.facts], ["samples"], settings.asking,
                   rows=ROWS)  # fmt: skip
    tools = Tools(encode_sentences, Meanings(aliases=aliases))
    names = ("naive-entropy", "mean-entropy", "semantic-entropy", "discrete-semantic-entropy")
    confidences = confidences_of(found, names, tools)
    table, measures = ranked("wordings", found, confidences, bench.seed)

    def better(semantic_B: Array, naive_B: Array, right_B: Array) -> float:
        return auroc(semantic_B, right_B) - auroc(naive_B, right_B)

    for name in ("semantic-entropy", "discrete-semantic-entropy"):
        measures.setdefault("AUROC over that of naive entropy, wordings", {})[name] = with_interval(
            better, confidences[name], confidences["naive-entropy"], found.right_B, seed=bench.seed, resamples=1000
        )
    lead = (
        f"{len(world.facts)} facts; answers to one kind of question come in one wording, to the other in "
        f"{len(WORDINGS)}. Other wordings of one answer are doubt to naive entropy, and none to semantic entropy."
    )
    blocks: tuple[Block, ...] = () if table is None else (table,)
    return Section(title="Wordings and meanings", lead=lead, blocks=blocks), measures


def wording_aliases(world: World) -> dict[str, str]:
    """Every wording of every object, normalised, to the object."""
    return {
        normalized(wording.replace("{object}", name)): normalized(name)
        for names in world.objects.values() for name in names for wording in WORDINGS
    }  # fmt: skip
