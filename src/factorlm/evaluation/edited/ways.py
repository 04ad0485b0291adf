"""Ways to change a fact: in the weights of a model, or by a factor, a memory or a component beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from factorlm.algebra import LocalProduct, Mixture, Named
from factorlm.evaluation.edited.ground import Ground
from factorlm.evaluation.edited.tuning import Tuning, tuned
from factorlm.evaluation.memories.stores import infini_of, place_of
from factorlm.evaluation.workbench import Workbench
from factorlm.factors import bind, lexicon, prompt
from factorlm.inference import Model
from factorlm.inference.memories import remember
from factorlm.memory.gates import TableGate
from factorlm.models import CausalLM
from factorlm.models.editing.algebra import LowRank
from factorlm.models.editing.facts import EditFact
from factorlm.models.editing.methods import METHODS, EditSettings, write_facts
from factorlm.models.editing.patching import replaced
from factorlm.models.editing.sites import site_of
from factorlm.settings import Config

ROME, C_ROME, MEMIT, TUNED = "ROME", "C-ROME", "MEMIT", "fine-tuning"
LEXICON, MEMORY, STATEMENT, TILT = "lexicon", "∞-gram memory", "statement read first", "tilted mixture"
IN_WEIGHTS = (ROME, C_ROME, MEMIT, TUNED)
BESIDE = (LEXICON, MEMORY, STATEMENT, TILT)
BYTES = 4  # of a number


class Doses(Config):
    """How much each way may say.

    Attributes:
        edit: of the closed forms.
        tuning: of fine-tuning.
        lexicon_nats: that the first word of a target gains wherever it could stand.
        memory_weight: of a memory that has found a long suffix.
        memory_suffix: tokens that make a suffix long.
        tilt: probability of the component that has read the statement, before any text.
    """

    edit: EditSettings = EditSettings()
    tuning: Tuning = Tuning()
    lexicon_nats: float = 6.0
    memory_weight: float = 0.9
    memory_suffix: int = 5
    tilt: float = 0.5


@dataclass(frozen=True, eq=False)
class Applied:
    """A model that says a fact.

    Attributes:
        model: the composition.
        num_bytes: that must be kept for it.
        seconds: that making it took.
        relative_norm: ‖ΔW‖ / ‖W‖ of the edited matrix, the largest of several; nan beside the weights.
        denominator: of ROME's change; nan elsewhere.
    """

    model: Model
    num_bytes: int
    seconds: float
    relative_norm: float = math.nan
    denominator: float = math.nan


def applied(bench: Workbench, ground: Ground, way: str, facts: Sequence[EditFact], doses: Doses) -> Applied:
    """A model with facts written by one of `IN_WEIGHTS` or `BESIDE`."""
    start = time.monotonic()
    found = (_in_weights if way in IN_WEIGHTS else _beside)(bench, ground, way, facts, doses)
    return Applied(found.model, found.num_bytes, time.monotonic() - start, found.relative_norm, found.denominator)


def written(
    ground: Ground, lm: CausalLM, way: str, facts: Sequence[EditFact], doses: Doses
) -> tuple[CausalLM, Mapping[str, LowRank | Tensor], float]:
    """A language model with facts in its weights, the changes of its matrices, and ROME's least denominator."""
    if way == TUNED:
        site = site_of(lm, doses.edit.model_copy(update={"method": "rome"}).layers(lm)[0])
        change_OF = tuned(lm, site, facts, doses.tuning)
        return replaced(lm, {site.name: change_OF}, lm.name), {site.name: change_OF}, math.nan
    settings = doses.edit.model_copy(update={"method": METHODS[IN_WEIGHTS.index(way)]})
    steps = write_facts(lm, facts, settings, ground.moment_of, prefixes=ground.prefixes)
    [step] = steps[-1:]
    denominators = [abs(d) for one in steps for d in one.denominators]
    return step.lm, step.change, min(denominators, default=math.nan)


def relative_norm(lm: CausalLM, change: Mapping[str, LowRank | Tensor]) -> float:
    """‖ΔW‖ / ‖W‖, the largest of several matrices."""
    modules = dict(lm.model.named_modules())
    return max(
        (part.norm if isinstance(part, LowRank) else float(part.norm())) / float(modules[name].weight.norm())
        for name, part in change.items()
    )


def _in_weights(bench: Workbench, ground: Ground, way: str, facts: Sequence[EditFact], doses: Doses) -> Applied:
    lm, change, denominator = written(ground, ground.model.lm, way, facts, doses)
    numbers = sum(
        part.up_ON.numel() + part.down_NF.numel() if isinstance(part, LowRank) else part.numel()
        for part in change.values()
    )
    return Applied(ground.over(lm), BYTES * numbers, 0.0, relative_norm(ground.model.lm, change), denominator)


def _beside(bench: Workbench, ground: Ground, way: str, facts: Sequence[EditFact], doses: Doses) -> Applied:
    statements = [fact.statement for fact in facts]
    size = len(" ".join(statements).encode())
    if way == MEMORY:
        model, size = _memory(bench, ground, statements, doses)
        return Applied(model, size, 0.0)
    return Applied(MADE[way](ground.model, facts, doses), size, 0.0)


def _lexicon(model: Model, facts: Sequence[EditFact], doses: Doses) -> Model:
    return model * bind(lexicon({fact.target: doses.lexicon_nats for fact in facts}), model.lm)


def _statement(model: Model, facts: Sequence[EditFact], doses: Doses) -> Model:
    return model * bind(prompt(" ".join(fact.statement for fact in facts)), model.lm)


def _tilt(model: Model, facts: Sequence[EditFact], doses: Doses) -> Model:
    parts = tuple(LocalProduct.of(one.factor) for one in (model, _statement(model, facts, doses)))
    return Model(Named("tilted", Mixture(parts, (1 - doses.tilt, doses.tilt))), model.lm)


MADE: dict[str, Callable[[Model, Sequence[EditFact], Doses], Model]] = {
    LEXICON: _lexicon,
    STATEMENT: _statement,
    TILT: _tilt,
}


def _memory(bench: Workbench, ground: Ground, statements: Sequence[str], doses: Doses) -> tuple[Model, int]:
    memory = infini_of(bench, ground.model.lm, "statements", statements)
    cells = (0.0,) * 4 + (doses.memory_weight,) * 4  # by the length of the suffix; counts do not matter
    gate = TableGate(edges=((doses.memory_suffix - 0.5,), (1e-6,), (0.5,)), cells=cells)
    size = len(" ".join(statements).encode())
    if bench.cache.folder is not None:
        place = place_of(bench, "infini", [ground.model.lm.vocabulary.fingerprint, list(statements)])
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return remember(ground.model, memory.gated(gate)), size
