"""From recipes to stores: what a recipe made is made anew, and nothing else is superseded without leave."""

from pathlib import Path

import pytest

from factorlm.errors import InputError
from factorlm.factors.build import build, is_made
from factorlm.factors.manifest import Change, LexiconSettings, Manifest
from factorlm.factors.recipe import Phrases, Recipe
from factorlm.factors.store import MANIFEST, Store, read_manifest
from factorlm.factors.versions import kept_versions, save_edit


def recipe(*phrases: str) -> Recipe:
    group = Phrases(boost=1.0, phrases=phrases or ("ship",))
    return Recipe(name="sea", description="The sea.", licence="MIT", lexicon=(group,))


def make(store: Store, *phrases: str, replace: bool = False) -> Manifest:
    return build(None, recipe(*phrases), lambda part: [], store, replace=replace).manifest


def own_words(store: Store) -> Path:
    return store.save(Manifest(name="sea", settings=LexiconSettings(phrases={"mine": 1.0})))


def edited(store: Store) -> Path:
    card = make(store)
    settings = LexiconSettings(phrases={"mine": 1.0})
    changes = (Change(version=card.version, what="x"),)
    update = {"settings": settings, "changes": changes, "version": "1.1.0"}
    return save_edit(store.folder / "sea", card.model_copy(update=update), None)


def ported(store: Store) -> Path:
    """A factor of the same name that is for another model: its card has the digest, and another command."""
    card = make(store)
    data = card.data.model_copy(update={"recipe": "factorlm factor port sea --to other --retrain"})
    return store.save(card.model_copy(update={"data": data}), replace=True)


@pytest.mark.parametrize(
    ("other", "said"), [(own_words, "was not made by its recipe"), (edited, "has been changed"), (ported, "not made")]
)
def test_a_factor_of_the_users_own_is_not_superseded(own: Store, other: object, said: str) -> None:
    assert callable(other)
    folder = other(own)
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(InputError, match=said):
        make(own)
    assert (folder / MANIFEST).read_bytes() == before
    make(own, replace=True)
    assert read_manifest(folder).settings == recipe().settings
    assert before in [(path / MANIFEST).read_bytes() for path in kept_versions(own, "sea").values()]


def test_what_its_recipe_made_is_made_anew_and_not_kept(own: Store) -> None:
    make(own)
    assert is_made(own, recipe(), None)
    assert not is_made(own, recipe("ship", "sail"), None)
    assert make(own, "ship", "sail").settings == recipe("ship", "sail").settings
    assert kept_versions(own, "sea") == {}


def test_a_factor_that_cannot_be_read_is_not_made_and_needs_leave(own: Store) -> None:
    make(own)
    (own.folder / "sea" / MANIFEST).write_text("{")
    assert not is_made(own, recipe(), None)
    with pytest.raises(InputError, match="cannot be read"):
        make(own)
    make(own, replace=True)
    assert is_made(own, recipe(), None)
