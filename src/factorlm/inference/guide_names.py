"""From names to guides: those of the user's store, those of the package, and words."""

from __future__ import annotations

from factorlm.diffusion.guide_files import Guides
from factorlm.diffusion.guides import LinearGuide
from factorlm.diffusion.meanings import Meanings
from factorlm.diffusion.shipped import SHIPPED_GUIDES
from factorlm.diffusion.zero_shot import guide_of_words, sides
from factorlm.errors import InputError
from factorlm.factors.store import default_stores


def all_guides() -> Guides:
    """The guides of the user's store, then those of the package."""
    return Guides(default_stores()[0].folder / ".guides", SHIPPED_GUIDES)


def find_guide(name: str, meanings: Meanings) -> LinearGuide:
    """A guide by name, or of words, such as "topic:sports".

    Raises:
        UnknownNameError: if there is none; near names are listed.
    """
    words = sides(name)
    if words is None:
        return all_guides().load(name).on(meanings.after)
    if meanings.collection is None:
        raise InputError(f"meanings with sentences are needed for {name!r}, got none; learn them with shown above 0")
    like, unlike = words
    vector_ND = meanings.encode([*like, *unlike])
    weight_D, bias = guide_of_words(vector_ND[: len(like)], vector_ND[len(like) :], meanings.collection)
    return LinearGuide(weight_D, bias, meanings.after)
