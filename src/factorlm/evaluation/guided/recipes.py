"""The guides of the package, and what each is learned from: texts that no judge of the shelf learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from factorlm.diffusion.guide_files import GuideCard, KeptGuide
from factorlm.diffusion.guides import GuideLearning, learn_guide
from factorlm.diffusion.meanings import Encode
from factorlm.errors import UnknownNameError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.judges.sources import PARADETOX_KEPT
from factorlm.models.vectors import DEFAULT_ENCODER
from factorlm.text.cleaning import cleaned

MOST_PAIRS = 4000
Sides = tuple[list[str], list[str]]


@dataclass(frozen=True)
class GuideRecipe:
    """How a guide is made.

    Attributes:
        name: of the guide.
        description: one line.
        label: what its probability is of.
        sources: data sets.
        licence: of the texts.
        credit: to whom they are owed.
        texts: with the label, and without.
    """

    name: str
    description: str
    label: str
    sources: tuple[str, ...]
    licence: str
    credit: str
    texts: Callable[[DataFolder], Sides]


def _labelled(part: str, positive: int, negative: int) -> Callable[[DataFolder], Sides]:
    def read(data: DataFolder) -> Sides:
        rows = data.rows(part)
        first, second = ([row["text"] for row in rows if row["label"] == label] for label in (positive, negative))
        return first, second

    return read


def _polite(data: DataFolder) -> Sides:
    rows = [row for part in ("stack_exchange", "wikipedia") for row in data.rows(f"politeness/{part}")]
    first, second = ([row["text"] for row in rows if row["label"] == label] for label in (1, 0))
    return first, second


def _toxic(data: DataFolder) -> Sides:
    rows = data.rows("paradetox/train")[:-PARADETOX_KEPT][:MOST_PAIRS]
    return [row["toxic"] for row in rows], [row["neutral"][0] for row in rows]


RECIPES = (
    GuideRecipe(
        "positive", "praise rather than blame", "positive against negative sentences of reviews",
        ("review_sentiment_transfer/yelp_dev",), "CC BY-SA 4.0",
        "J. Li, R. Jia, H. He, P. Liang, Delete, Retrieve, Generate (2018); "
        "github.com/lijuncen/Sentiment-and-Style-Transfer", _labelled("review_sentiment_transfer/yelp_dev", 1, 0),
    ),
    GuideRecipe(
        "polite", "polite rather than impolite requests", "requests rated polite against impolite",
        ("politeness/stack_exchange", "politeness/wikipedia"), "Apache-2.0",
        "C. Danescu-Niculescu-Mizil et al., A computational approach to politeness (2013)", _polite,
    ),
    GuideRecipe(
        "toxic", "insults and vulgar language", "toxic sentences against their neutral rewrites",
        ("paradetox/train",), "CC0 1.0",
        "V. Logacheva et al., ParaDetox (2022)", _toxic,
    ),
)  # fmt: skip


def recipe_named(name: str) -> GuideRecipe:
    """A recipe.

    Raises:
        UnknownNameError: if there is none.
    """
    found = {recipe.name: recipe for recipe in RECIPES}
    if name not in found:
        raise UnknownNameError.of("guide with a recipe", name, found)
    return found[name]


def make_guide(recipe: GuideRecipe, data: DataFolder, encode: Encode) -> KeptGuide:
    """Learn the guide of a recipe."""
    positive, negative = (_clean(texts) for texts in recipe.texts(data))
    vector_ND = encode([*positive, *negative])
    found = learn_guide(vector_ND[: len(positive)], vector_ND[len(positive) :], GuideLearning())
    card = GuideCard(
        name=recipe.name, description=recipe.description, label=recipe.label, encoder=DEFAULT_ENCODER,
        width=vector_ND.shape[1], num_positive=len(positive), num_negative=len(negative), quality=found.quality,
        sources=recipe.sources, licence=recipe.licence,
        credit=recipe.credit,
    )  # fmt: skip
    return KeptGuide(card, found.weight_D, found.bias)


def _clean(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(clean for text in texts if (clean := cleaned(text))))
