"""What the mixing desk needs to know: the model, and everything that can be mixed onto it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from factorlm.errors import FactorlmError
from factorlm.factors.manifest import GrammarSettings, LexiconSettings, Manifest
from factorlm.inference.explanation import COLOURS, FULL, VISIBLE
from factorlm.inference.guide_names import all_guides
from factorlm.serving.jobs import Engine
from factorlm.serving.settings import ServerSettings
from factorlm.serving.stores import Found

if TYPE_CHECKING:
    from factorlm.serving.workshop import Workshop

SHOWN_TOKENS, SHOWN_TEXTS = 8, 2  # of a component of a prior


class DeskModel(BaseModel):
    """The served model.

    Attributes:
        id: its name.
        max_tokens: that it can read.
        chat: whether it can answer messages.
    """

    id: str
    max_tokens: int
    chat: bool


class DeskFactor(BaseModel):
    """A factor, as a fader needs it.

    Attributes:
        name: of it.
        version: of it.
        kind: of it.
        description: one line.
        label: what it learned from.
        licence: of what it learned from.
        owner: "you" or "server".
        unit: "strength", or "exponent" for one that is on or off, because its exponent changes nothing.
        range: strengths that it can reach, in nats per token.
        points: strength and exponent, measured; none where the card has no map.
        has_response: whether its card has a dose and response.
    """

    name: str
    version: str
    kind: str
    description: str
    label: str
    licence: str
    owner: Literal["you", "server"]
    unit: Literal["strength", "exponent"]
    range: tuple[float, float] | None
    points: list[tuple[float, float]] | None
    has_response: bool


class DeskGuide(BaseModel):
    """A guide of meaning.

    Attributes:
        name: of it.
        description: one line.
        label: what its probability is of.
        licence: of what it learned from.
        accuracy: on texts left out.
    """

    name: str
    description: str
    label: str
    licence: str
    accuracy: float


class DeskMemory(BaseModel):
    """A memory.

    Attributes:
        name: as the server was started with it.
        kind: of it.
        description: what it was built from, in a line.
        licence: of that.
    """

    name: str
    kind: str
    description: str
    licence: str


class DeskComponent(BaseModel):
    """A component of a prior.

    Attributes:
        name: of it.
        weight: its probability now.
        tokens: what it makes likelier than the mixture does, the strongest first.
        typical: texts that it explains best.
    """

    name: str
    weight: float
    tokens: list[str]
    typical: list[str]


class DeskPrior(BaseModel):
    """A prior over models.

    Attributes:
        name: as the server was started with it.
        kind: what its components are made of.
        components: of it.
    """

    name: str
    kind: str
    components: list[DeskComponent]


class DeskLimits(BaseModel):
    """What one request may ask for."""

    n: int
    max_tokens: int
    factors: int


class Desk(BaseModel):
    """Everything that can be mixed here.

    Attributes:
        model: that is served.
        colours: of factors, in order of use.
        visible: nats of a push from which on a token is coloured.
        full: nats of a push that gets the full colour.
        factors: of the caller, then of the server; those made for another model are left out.
        guides: of the server.
        memories: of the server.
        priors: of the server.
        limits: of one request.
    """

    model: DeskModel
    colours: list[str]
    visible: float
    full: float
    factors: list[DeskFactor]
    guides: list[DeskGuide]
    memories: list[DeskMemory]
    priors: list[DeskPrior]
    limits: DeskLimits


def desk_of(settings: ServerSettings, engine: Engine, workshop: Workshop, factors: list[Found]) -> Desk:
    """All that can be mixed.

    Args:
        settings: of the server.
        engine: that writes.
        workshop: that knows the served model.
        factors: that the caller can name.
    """
    limits, served = settings.limits, _fingerprint(workshop)
    readable = [found for found in factors if isinstance(found.card, Manifest)]
    lines = [_factor(found) for found in readable if _fits(found.manifest, served)]
    return Desk(
        model=DeskModel(id=engine.model_id, max_tokens=engine.max_tokens, chat=_can_chat(engine)),
        colours=list(COLOURS),
        visible=VISIBLE,
        full=FULL,
        factors=sorted(lines, key=lambda line: (line.owner != "you", line.name)),
        guides=_guides(),
        memories=[found for name, folder in sorted(settings.memories.items()) for found in _memory(name, folder)],
        priors=[found for name, folder in sorted(settings.priors.items()) for found in _prior(name, folder)],
        limits=DeskLimits(n=limits.n, max_tokens=min(limits.max_tokens, engine.max_tokens), factors=limits.factors),
    )


def _fingerprint(workshop: Workshop) -> str:
    """Of the served model; "" where the engine keeps it elsewhere."""
    try:
        return workshop.lm.fingerprint
    except FactorlmError:
        return ""


def _fits(card: Manifest, served: str) -> bool:
    return card.encoder is None or served in ("", card.encoder.fingerprint)


def _can_chat(engine: Engine) -> bool:
    try:
        engine.encode_chat([{"role": "user", "content": "Hello"}])
    except FactorlmError:
        return False
    return True


def _factor(found: Found) -> DeskFactor:
    card = found.manifest
    points = list(card.strengths.points) if card.strengths is not None else None
    return DeskFactor(
        name=found.name,
        version=card.version,
        kind=card.kind,
        description=card.description,
        label=card.label,
        licence=card.licence,
        owner=found.owner,
        unit="exponent" if _is_switch(card) else "strength",
        range=(points[0][0], points[-1][0]) if points else None,
        points=points,
        has_response=card.response is not None,
    )


def _is_switch(card: Manifest) -> bool:
    """Whether a factor only bans, so that every exponent does the same."""
    match card.settings:
        case GrammarSettings():
            return True
        case LexiconSettings(phrases=phrases):
            return all(boost is None for boost in phrases.values())
    return False


def _guides() -> list[DeskGuide]:
    found, guides = [], all_guides()
    for name in guides.names():
        try:
            card = guides.load(name).card
        except FactorlmError:
            continue  # one that cannot be read cannot be mixed
        found.append(
            DeskGuide(
                name=name,
                description=card.description,
                label=card.label,
                licence=card.licence,
                accuracy=card.quality.accuracy,
            )
        )
    return found


def _memory(name: str, folder: Path) -> list[DeskMemory]:
    from factorlm.inference.memory_names import parted
    from factorlm.memory.card import MemoryCardMarks, kind_of, read_card

    try:
        place = parted(folder)[0]
        card = read_card(place, MemoryCardMarks)
        said = f"{card.num_documents:,} documents, {card.num_tokens:,} tokens"
        return [DeskMemory(name=name, kind=kind_of(place), description=said, licence=card.licence)]
    except FactorlmError:
        return []


def _prior(name: str, folder: Path) -> list[DeskPrior]:
    from factorlm.prior.files import FOLDER as PRIORS

    try:
        card = PRIORS.read_card(folder)
    except FactorlmError:
        return []
    components = [
        DeskComponent(
            name=one.name,
            weight=one.weight,
            tokens=list(one.portrait.tokens[:SHOWN_TOKENS]),
            typical=list(one.portrait.typical[:SHOWN_TEXTS]),
        )
        for one in card.components
    ]
    return [DeskPrior(name=name, kind=card.kind.kind, components=components)]
