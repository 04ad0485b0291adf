"""Guides on disk: `.guides/NAME` in a store, beside its factors; folders of `guide.json` and `weights.safetensors`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.diffusion.guidance import Guide
from factorlm.diffusion.guides import GuideQuality, Hidden, LinearGuide, Standard
from factorlm.errors import IncompatibleError, InputError, IntegrityError, UnknownNameError
from factorlm.models.card_folder import Card, CardFolder

NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,63}$"


class GuideCard(Card):
    """The content of guide.json, with the sums of other files.

    Attributes:
        format: of this file.
        name: of the guide.
        description: one line.
        label: what its probability is of.
        encoder: name of what makes vectors of texts.
        width: numbers of a vector.
        units: of the hidden layer; 0 for logistic regression.
        num_positive: texts with the label that it learned from.
        num_negative: texts without.
        quality: on texts left out.
        sources: files or sets of the texts.
        licence: of the texts, and so of the guide.
        credit: to whom the texts are owed.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    label: str = ""
    encoder: str
    width: PositiveInt
    units: Annotated[int, Field(ge=0)] = 0
    num_positive: PositiveInt
    num_negative: PositiveInt
    quality: GuideQuality
    sources: tuple[str, ...] = ()
    licence: str = "unspecified"
    credit: str = ""


class LatentGuide(Guide, Protocol):
    """A guide that can be turned round, and that knows how far texts follow latents."""

    @property
    def opposite(self) -> LatentGuide:
        """Of what it is for not being so."""

    def heeded(self, heed: float) -> LatentGuide:
        """Of what will be written by a decoder that heeds latents so far."""


FOLDER = CardFolder("guide", "guide.json", GuideCard, "factorlm guide train", "train the guide anew")


@dataclass(frozen=True, eq=False)
class KeptGuide:
    """A guide as it is kept: of vectors, whatever latents are made of them.

    Attributes:
        card: what is said of it.
        weight_D: by which the numbers of a vector, or of the hidden layer, count.
        bias: of the logit.
        hidden: the layer; None for logistic regression.
    """

    card: GuideCard
    weight_D: Tensor
    bias: float
    hidden: Hidden | None = None

    def prob(self, vector_BD: Tensor) -> Tensor:
        """Probability of the label given vectors of length one, [B].

        Raises:
            InputError: if they are of another size.
        """
        if vector_BD.shape[1] != self.card.width:
            raise InputError(
                f"vectors of {self.card.width} numbers, by {self.card.encoder}, are needed, got {vector_BD.shape[1]}"
            )
        read_BD = vector_BD if self.hidden is None else self.hidden(vector_BD)
        return torch.sigmoid(read_BD @ self.weight_D + self.bias)

    def on(self, standard: Standard) -> LinearGuide:
        """The guide of latents that stand for vectors in this way.

        Raises:
            IncompatibleError: if the vectors are of another size.
        """
        if len(standard.mean_D) != self.card.width:
            raise IncompatibleError(
                f"the guide {self.card.name!r} reads vectors of {self.card.width} numbers by {self.card.encoder}, got "
                f"meanings of {len(standard.mean_D)}; train it with their encoder"
            )
        return LinearGuide(self.weight_D, self.bias, standard, self.hidden)


class Guides:
    """Guides in folders, one of which new ones are written to.

    Args:
        folder: of the user's own guides.
        others: folders that are read behind it; a guide of the same name stands before theirs.
    """

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder, self.others = folder, others

    def names(self) -> list[str]:
        """Of all guides, sorted."""
        return sorted(self._places())

    def _places(self) -> dict[str, Path]:
        folders = (*reversed(self.others), self.folder)
        return {path.name: path for folder in folders for path in folder.glob("*") if FOLDER.is_one(path)}

    def check_name(self, name: str, *, replace: bool = False) -> None:
        """Raise InputError if a guide of this name could not be saved."""
        if not re.fullmatch(NAME_PATTERN, name):
            raise InputError(f"a name is small letters, digits, - and _, beginning with a letter, got {name!r}")
        if (self.folder / name).exists() and not replace:
            raise InputError(f"there is a guide {name!r} already; choose another name, or give --replace")

    def save(self, guide: KeptGuide, *, replace: bool = False) -> Path:
        """Write a guide; gives its folder.

        Raises:
            InputError: if there is one already and `replace` is not set, or the place cannot be written.
        """
        self.check_name(guide.card.name, replace=replace)
        place = self.folder / guide.card.name
        tensors = {"weight": guide.weight_D, "bias": torch.tensor([guide.bias], dtype=torch.float64)}
        if guide.hidden is not None:
            tensors |= {"hidden_weight": guide.hidden.weight_HD, "hidden_bias": guide.hidden.bias_H}
        FOLDER.write(place, guide.card, tensors, replace=replace)
        return place

    def load(self, name: str) -> KeptGuide:
        """A guide by name.

        Raises:
            UnknownNameError: if there is none; near names are listed.
            IntegrityError: if a file is not what the card says.
        """
        places = self._places()
        if name not in places:
            raise UnknownNameError.of("guide", name, sorted(places), "factorlm guide train makes one")
        card, tensors = FOLDER.read(places[name])
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        wanted: dict[str, tuple[int, ...]] = {"weight": (card.units or card.width,), "bias": (1,)}
        if card.units:
            wanted |= {"hidden_weight": (card.units, card.width), "hidden_bias": (card.units,)}
        if shapes != wanted:
            raise IntegrityError(f"the numbers in {places[name]} are not those of its card; train it anew")
        hidden = Hidden(tensors["hidden_weight"], tensors["hidden_bias"]) if card.units else None
        return KeptGuide(card, tensors["weight"], float(tensors["bias"]), hidden)
