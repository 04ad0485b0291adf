"""What `prior.json` says of a prior: everything needed to use it, trust it and credit it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from factorlm.models.card_folder import Card
from factorlm.prior.learning import Round
from factorlm.settings import Config

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,63}$"
WEIGHTS_SUM = 1e-6  # how far weights may be from one

Share = Annotated[float, Field(ge=0, le=1)]


class _Card(Config):
    model_config = ConfigDict(allow_inf_nan=False)


class SoftPrompts(Config):
    """Vectors read in the places of tokens, behind the start token."""

    kind: Literal["soft-prompt"] = "soft-prompt"
    places: PositiveInt


class Prompts(Config):
    """Sentences read behind the start token."""

    kind: Literal["prompt"] = "prompt"
    assumptions: tuple[str, ...]


class Layers(Config):
    """Which layers run: a logit for each layer that may be skipped; the more probable choice is taken.

    Attributes:
        num_layers: of the model.
        first: layers at the beginning that always run.
        last: layers at the end that always run.
        scale: what the product of the thin matrices of the change that all share is multiplied by; None where the model
            was not changed.
    """

    kind: Literal["layers"] = "layers"
    num_layers: PositiveInt
    first: Annotated[int, Field(ge=0)]
    last: Annotated[int, Field(ge=0)]
    scale: float | None = None


class Lora(Config):
    """Low-rank changes of linear layers. `scale` is what the product of the thin matrices is multiplied by."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt
    scale: float


class Models(Config):
    """Whole language models with one vocabulary.

    Attributes:
        models: names, folders or hub names.
        fingerprints: of each; a model of that name that is another one is refused.
    """

    kind: Literal["model"] = "model"
    models: tuple[str, ...]
    fingerprints: tuple[str, ...]


Kind = Annotated[SoftPrompts | Prompts | Layers | Lora | Models, Field(discriminator="kind")]


class Base(Config):
    """The language model that components change. A prior for another one is refused by the fingerprint."""

    name: str
    fingerprint: str


class Portrait(_Card):
    """What a component assumes, shown.

    Attributes:
        typical: texts it was learned from, that it explains best compared with the others.
        own_words: texts that it writes.
        tokens: what it makes likelier than the mixture does, the strongest first.
        nearest: words nearest to its vectors, where it has such.
    """

    typical: tuple[str, ...] = ()
    own_words: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()


class ComponentCard(_Card):
    """One component.

    Attributes:
        name: what people call it.
        weight: its probability now; 0 if it was filtered out.
        learned_weight: its probability when it was learned.
        portrait: what it assumes.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    weight: Share
    learned_weight: Share
    portrait: Portrait = Portrait()


class Update(_Card):
    """A change of weights.

    Attributes:
        what: was done: posterior, filter or tilt.
        why: the evidence or reward, in a line.
        before: weights.
        after: weights.
        divergence: KL(after || before), in nats.
    """

    what: Literal["posterior", "filter", "tilt"]
    why: str
    before: tuple[Share, ...]
    after: tuple[Share, ...]
    divergence: float


class Fitted(_Card):
    """How it was learned.

    Attributes:
        corpus: a line on the texts.
        num_texts: how many.
        num_tokens: of them.
        fingerprint: of the texts.
        licence: of the texts.
        settings: complete, of learning and of the components.
        rounds: what each found.
        dev_nats: negative log likelihood of held-out texts, per token.
        base_nats: that of the bare model.
        num_parameters: trained.
        seconds: that it took.
    """

    corpus: str
    num_texts: int
    num_tokens: int
    fingerprint: str
    licence: str = "unspecified"
    settings: dict[str, object]
    rounds: tuple[Round, ...]
    dev_nats: float
    base_nats: float
    num_parameters: int
    seconds: float


class Manifest(Card):
    """The content of prior.json, with the sums of other files.

    Attributes:
        format: of this file.
        kind: what components are made of.
        base: the language model.
        components: their cards.
        divergence: mean Jensen-Shannon divergence of the next-token distributions of each two, in nats per token.
        fitted: how it was learned; None where it was put together by hand.
        updates: what was done to the weights since.
    """

    format: Literal[1] = 1
    kind: Kind
    base: Base
    components: Annotated[tuple[ComponentCard, ...], Field(min_length=1)]
    divergence: tuple[tuple[float, ...], ...] = ()
    fitted: Fitted | None = None
    updates: tuple[Update, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if abs(math.fsum(self.weights) - 1) > WEIGHTS_SUM:
            raise ValueError(f"weights must sum to 1, got {self.weights}")
        if len({c.name for c in self.components}) < len(self.components):
            raise ValueError("components must have different names")
        num = len(self.components)
        if self.divergence and (len(self.divergence) != num or any(len(row) != num for row in self.divergence)):
            raise ValueError(f"divergences of {num} components with each other are needed")
        for field in ("assumptions", "models", "fingerprints"):
            names = getattr(self.kind, field, None)
            if names is not None and len(names) != num:
                raise ValueError(f"one assumption for each of {num} components is needed, got {len(names)}")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the components, now."""
        return tuple(c.weight for c in self.components)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the components."""
        return tuple(c.name for c in self.components)
