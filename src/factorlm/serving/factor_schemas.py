"""What clients send and get about factors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from factorlm.factors.manifest import Change, Response
from factorlm.serving.workshop import State, Training
from factorlm.settings import Config

MOST_WORDS, LONGEST_WORD = 64, 200  # of an edit; characters
MOST_CONTEXTS, LONGEST_CONTEXT = 8, 2000
MOST_TEXTS, LONGEST_TEXT = 5000, 20_000  # of each class; characters
MOST_COMPARED = 16  # factors

Word = Annotated[str, Field(min_length=1, max_length=LONGEST_WORD)]
Words = Annotated[list[Word], Field(max_length=MOST_WORDS)]
Texts = Annotated[list[Annotated[str, Field(max_length=LONGEST_TEXT)]], Field(min_length=1, max_length=MOST_TEXTS)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class FactorLine(BaseModel):
    """A factor in a list.

    Attributes:
        id: its name, as OpenAI calls names.
        name: the same.
        owner: "you" or "server".
        version: of it.
        kind: of factor.
        description: one line.
        label: what it means that a text has it.
        licence: of it.
        encoder: fingerprint of the model that it needs; none where any will do.
        fits: whether the served model is that one.
        strengths: the least and the greatest strength that was measured, in signed nats per token.
        has_response: whether its dose and response were measured.
        problem: why it cannot be used, where its files are damaged.
    """

    id: str
    object: Literal["factor"] = "factor"
    name: str
    owner: Literal["you", "server"]
    version: str = ""
    kind: str = ""
    description: str = ""
    label: str = ""
    licence: str = ""
    encoder: str | None = None
    fits: bool = True
    strengths: tuple[float, float] | None = None
    has_response: bool = False
    problem: str = ""


class FactorList(BaseModel):
    """The factors that can be named, your own first."""

    object: Literal["list"] = "list"
    data: list[FactorLine]


class Uploaded(BaseModel):
    """The answer to an upload: the factor is on the disk.

    Attributes:
        name: of it.
        version: of it.
        kind: of factor.
        sha256: of its factor.json, which holds that of its weights.
        version_before: that it took the place of, and that is kept; empty if nothing was changed.
    """

    name: str
    version: str
    kind: str
    sha256: str
    version_before: str


class EditRequest(Config):
    """Words to allow, to forbid or to boost; or an edit to take back.

    Attributes:
        allow: words that the factor shall leave alone.
        forbid: phrases to ban; a head can only pull them far down.
        boost: phrases and what to push them by, in nats at exponent one.
        context: texts after which to show what the edit does.
        strength: at which to show that, in signed nats per token.
        undo: take back the last edit instead.
    """

    allow: Words = Field(default_factory=list)
    forbid: Words = Field(default_factory=list)
    boost: Annotated[dict[Word, Finite], Field(max_length=MOST_WORDS)] = Field(default_factory=dict)
    context: Annotated[list[Annotated[str, Field(max_length=LONGEST_CONTEXT)]], Field(max_length=MOST_CONTEXTS)] = (
        Field(default_factory=list)
    )
    strength: Annotated[float, Field(ge=-10, le=10)] = 0.2
    undo: bool = False

    @model_validator(mode="after")
    def _check(self) -> EditRequest:
        if self.undo and (self.allow or self.forbid or self.boost or self.context):
            raise ValueError(
                "allow, forbid and boost edit a factor, undo takes the last edit back; send one or the other"
            )
        if self.strength == 0:
            raise ValueError("a strength of zero shows nothing; 0.2 is clear")
        return self


class EditedFactor(BaseModel):
    """What an edit did.

    Attributes:
        name: of the factor.
        kind: of it.
        version: that it has now.
        version_before: that it had; it is kept.
        change: what was done, or what was undone, in a line.
        undone: whether an edit was taken back.
        owner: of the factor that now has the name.
        strength: at which the effect was measured.
        effect: probabilities of the words after some contexts, under the base, before and after.
        pushes: for a head, nats of each way of writing each word, before and after.
        collateral: for a head, what happened to the tokens that were not edited.
        notes: what people should know.
    """

    name: str
    kind: str
    version: str
    version_before: str
    change: str
    undone: bool = False
    owner: Literal["you", "server"] = "you"
    strength: float | None = None
    effect: list[dict[str, Any]] = Field(default_factory=list)
    pushes: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    collateral: dict[str, Any] | None = None
    notes: list[str] = Field(default_factory=list)


class FactorVersion(BaseModel):
    """One version of a factor.

    Attributes:
        version: its number.
        sha256: of its factor.json.
        is_current: whether the name means this one.
    """

    version: str
    sha256: str
    is_current: bool


class FactorVersions(BaseModel):
    """All versions of a factor that are kept, the current one last, and the edits that led to it."""

    name: str
    owner: Literal["you", "server"]
    versions: list[FactorVersion]
    changes: list[Change]


class Removed(BaseModel):
    """The answer to a deletion."""

    name: str
    deleted: bool = True


class DoseResponse(BaseModel):
    """What a factor does at each strength.

    Attributes:
        name: of it.
        response: what was measured; none where nothing was.
        strengths: pairs of strength and exponent.
    """

    name: str
    response: Response | None
    strengths: list[tuple[float, float]]


class Correlations(BaseModel):
    """How factors depend on each other at the next token, under the base.

    Attributes:
        names: of them.
        correlation: of each with each; none for a factor that does not vary, such as a ban.
        deviation: how much each varies, in nats at exponent one.
        effective_number: how many independent factors they are worth.
        warnings: what to know before they are used together.
    """

    names: list[str]
    correlation: list[list[float | None]]
    deviation: list[float]
    effective_number: float
    warnings: list[str]


class TrainRequest(Config):
    """Texts to learn a factor from.

    Attributes:
        name: of the new factor.
        positive: texts that have it.
        negative: texts that do not.
        description: one line for lists.
        label: what it means that a text has it.
        licence: of the trained numbers.
        seed: of the order of texts.
        replace: whether a factor of yours of that name may be superseded; it is kept.
    """

    name: Annotated[str, Field(max_length=64)]
    positive: Texts
    negative: Texts
    description: Annotated[str, Field(max_length=500)] = ""
    label: Annotated[str, Field(max_length=500)] = ""
    licence: Annotated[str, Field(max_length=100)] = "unspecified"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    replace: bool = False


class TrainingProgress(BaseModel):
    """How far a training is.

    Attributes:
        id: by which to ask for it.
        name: of the factor.
        state: waiting, running, done, failed or cancelled.
        stage: what is being done.
        done: of that, so much.
        total: of so much.
        message: why it failed.
        result: what came of it: version, held-out AUC, seconds.
    """

    id: str
    object: Literal["factor.training"] = "factor.training"
    name: str
    state: State
    stage: str
    done: int
    total: int
    message: str
    result: dict[str, Any] | None

    @classmethod
    def of(cls, training: Training) -> TrainingProgress:
        """As it is now."""
        return cls(id=training.id, name=training.name, **vars(training.progress))
