"""Which layer a fact comes through, and which is edited."""

from __future__ import annotations

from collections.abc import Sequence

from factorlm.evaluation.document import Curve, Section, Series
from factorlm.evaluation.edited.ground import Ground
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.models.editing.facts import EditFact
from factorlm.models.editing.tracing import best_layer, indirect_effects


def layers_part(bench: Workbench, ground: Ground, facts: Sequence[EditFact]) -> Part:
    """What each layer's MLPs give back of a lost answer when the subject is blurred."""
    key = {"what": "traced", **ground.key, "facts": [fact.model_dump() for fact in facts]}
    lm = ground.model.lm
    effects: list[float] = bench.cache.get(
        key, lambda: indirect_effects(lm, facts, seed=bench.seed, report=bench.report)
    )
    best = best_layer(effects)
    curve = Curve(
        title="Indirect effect by layer", x_label="layer", y_label="probability given back",
        series=(Series(name="MLPs around the layer", x=tuple(map(float, range(len(effects)))), y=tuple(effects)),),
        note="Of the model's own first answer, mean over facts and blurs; a layer is restored with its neighbours.",
    )  # fmt: skip
    measures = {f"{ground.name}/traced layer": {"best": Estimate(value=float(best), n=len(facts))}}
    line = f"{ground.name}: facts come through layer {best} most, by causal tracing of {len(facts)} facts."
    return Part((Section(title=f"Where facts come through ({ground.name})", blocks=(curve,)),), measures, (line,))
