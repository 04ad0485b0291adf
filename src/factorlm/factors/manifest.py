"""What `factor.json` says of a factor: everything needed to use it, trust it and credit it."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from factorlm.factors.head import EncoderCard
from factorlm.factors.strength import StrengthMap
from factorlm.settings import Config

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,63}$"
VERSION_PATTERN = r"^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})$"  # also what a folder is named

Share = Annotated[float, Field(ge=0, le=1)]


class _Card(Config):
    """What has numbers that were measured: none of them is infinite or nan, which JSON could not carry."""

    model_config = ConfigDict(allow_inf_nan=False)


class HeadSettings(Config):
    """A head: a bias and a low-rank map of the encoder's last hidden state."""

    kind: Literal["head"] = "head"
    rank: Annotated[int, Field(ge=0)]


class LexiconSettings(_Card):
    """Words and phrases with a boost in nats each; null is a ban."""

    kind: Literal["lexicon"] = "lexicon"
    phrases: dict[str, float | None]
    case_sensitive: bool = False
    whole_word: bool = True


class PromptSettings(Config):
    """The ratio of the model that was given an instruction to the model that was not."""

    kind: Literal["prompt"] = "prompt"
    instruction: str


class ContrastSettings(Config):
    """The ratio of two models of one vocabulary; null stands for the model that is steered."""

    kind: Literal["contrast"] = "contrast"
    expert: str | None
    anti_expert: str | None


class GrammarSettings(Config):
    """Texts of a formal language, all others impossible; one of the four is given. See `fl.grammar`."""

    kind: Literal["grammar"] = "grammar"
    json_schema: str | None = None
    regex: str | None = None
    rules: str | None = None
    choices: tuple[str, ...] | None = None


class RewardSettings(Config):
    """A reward of whole responses, linear in the mean of the encoder's last hidden states."""

    kind: Literal["reward"] = "reward"


class AdapterSettings(_Card):
    """The ratio of the encoder with a low-rank adapter to the encoder without; `scale` multiplies the adapter."""

    kind: Literal["adapter"] = "adapter"
    scale: Annotated[float, Field(gt=0)]


Settings = Annotated[
    HeadSettings
    | LexiconSettings
    | PromptSettings
    | ContrastSettings
    | GrammarSettings
    | RewardSettings
    | AdapterSettings,
    Field(discriminator="kind"),
]


class Source(Config):
    """A set of texts that a factor was trained or tested on."""

    name: str
    licence: str
    credit: str = ""
    num_texts: int
    fingerprint: str


class DataCard(Config):
    """Where a trained factor comes from.

    Attributes:
        train: what it learned from.
        test: what its evidence was tested on.
        own_texts: how many texts of the encoder itself it learned from besides.
        recipe: the command that makes it again.
        recipe_digest: hash of the recipe that it was made by; empty where it was made without one.
    """

    train: tuple[Source, ...] = ()
    test: tuple[Source, ...] = ()
    own_texts: int = 0
    recipe: str = ""
    recipe_digest: str = ""


class Calibration(_Card):
    """How the potential was scaled, and what its evidence is worth on texts held out from learning.

    Attributes:
        scale: what the learned numbers were multiplied by, so that exponent one is the learned likelihood ratio.
        prior: log odds to add to the evidence log p_+(x) / p_-(x) of a text.
        dev_loss: cross-entropy of the calibrated label probability on the dev split, in nats.
        dev_auc: area under the curve of the evidence on the dev split.
        test_auc: the same on the test texts, if there were any.
        pair_accuracy: share of held-out preference pairs ordered rightly; None where it was not learned from pairs.
    """

    scale: float
    prior: float
    dev_loss: float
    dev_auc: float
    test_auc: dict[str, float] = Field(default_factory=dict)
    pair_accuracy: float | None = None


class Change(_Card):
    """An edit.

    Attributes:
        version: that it was made to.
        what: it did, in a line.
        allow: the words that it left alone from then on.
        forbid: the phrases that it banned.
        boost: the phrases that it gave nats at exponent one.
        sha256: of the factor.json that it was made to; empty on cards of older releases, as are the three above.
    """

    version: str
    what: str
    allow: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    boost: dict[str, float] = Field(default_factory=dict)
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


class Dose(_Card):
    """What a factor used alone does to texts at one strength.

    Attributes:
        strength: signed nats per token.
        rate: share of texts judged to have the attribute.
        rate_error: its standard error over openings.
        perplexity_ratio: perplexity of the texts under the base model, over that of its own texts.
        distinct: share of different trigrams among those of the texts.
    """

    strength: float
    rate: Share
    rate_error: Annotated[float, Field(ge=0)]
    perplexity_ratio: Annotated[float, Field(gt=0)]
    distinct: Share


class Response(_Card):
    """Dose and response, in the eyes of a judge.

    Attributes:
        judge: which one, and what it learned from.
        accuracy: of the judge on texts held out from it.
        num_texts: at each strength.
        num_tokens: of each text.
        doses: by rising strength, 0 among them.
    """

    judge: str
    accuracy: Share
    num_texts: Annotated[int, Field(ge=1)]
    num_tokens: Annotated[int, Field(ge=1)]
    doses: tuple[Dose, ...]

    @model_validator(mode="after")
    def _check(self) -> Response:
        strengths = [dose.strength for dose in self.doses]
        if 0.0 not in strengths or any(not a < b for a, b in itertools.pairwise(strengths)):
            raise ValueError("doses must rise in strength, with zero among them")
        return self


class Manifest(_Card):
    """The content of factor.json; design section 5."""

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)] = "0.1.0"
    description: str = ""
    label: str = ""
    licence: str = "unspecified"
    settings: Settings
    encoder: EncoderCard | None = None
    calibration: Calibration | None = None
    strengths: StrengthMap | None = None
    data: DataCard = DataCard()
    effect: dict[str, float] = Field(default_factory=dict)
    response: Response | None = None
    origin: str = ""  # how it came from another factor, where it did
    changes: tuple[Change, ...] = ()  # edits, the oldest first
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which of the kinds of factor this is."""
        return self.settings.kind
