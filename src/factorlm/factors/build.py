"""From a recipe to a factor in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError, IntegrityError
from factorlm.factors import versions
from factorlm.factors.examples import Example, split
from factorlm.factors.head import Head
from factorlm.factors.manifest import Manifest
from factorlm.factors.recipe import Recipe, Rows
from factorlm.factors.response import measure_response, sentence_judge
from factorlm.factors.store import Store, read_manifest
from factorlm.factors.training import train_head
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Built:
    """What became of a recipe.

    Attributes:
        folder: of the factor.
        manifest: its card.
        seconds: that each stage took; empty where the factor stood there already, made by the same recipe.
    """

    folder: Path
    manifest: Manifest
    seconds: dict[str, float]


def is_made(store: Store, recipe: Recipe, lm: CausalLM | None) -> bool:
    """Whether the store has the factor, made by this very recipe for this encoder, and not edited since."""
    if recipe.name not in store.names():
        return False
    try:
        manifest = read_manifest(store.folder / recipe.name)
    except IntegrityError:
        return False
    same_encoder = manifest.encoder is None or lm is None or manifest.encoder.fingerprint == lm.fingerprint
    return manifest.data.recipe_digest == recipe.digest and not manifest.changes and same_encoder


def check_replaceable(store: Store, recipe: Recipe) -> None:
    """Check that the store has no factor of that name but one that the recipe, or an older form of it, can make again.

    Raises:
        InputError: if it was made otherwise, or changed since, or cannot be read.
    """
    if what := _other(store, recipe):
        raise InputError(
            f"{recipe.name!r} in {store.folder} {what}, and would be superseded; rename the recipe, take another "
            "--out, or --force it, which keeps the old one among its versions"
        )


def _other(store: Store, recipe: Recipe) -> str:
    """What is the matter with a factor of that name that the recipe cannot make again; empty if there is none."""
    if recipe.name not in store.names():
        return ""
    try:
        manifest = read_manifest(store.folder / recipe.name)
    except IntegrityError:
        return "cannot be read"
    if manifest.changes:
        return "has been changed"
    is_its_own = manifest.data.recipe_digest and manifest.data.recipe == recipe.command
    return "" if is_its_own else "was not made by its recipe"


def build(
    lm: CausalLM | None,
    recipe: Recipe,
    rows: Rows,
    store: Store,
    *,
    replace: bool = False,
    seed: int = 0,
    report: Report = quiet,
) -> Built:
    """Make the factor of a recipe and put it into a store, in place of what a recipe of that name made before.

    A head is trained, tested, and its dose and response measured by a judge that learned from texts held out from
    the head's training.

    Args:
        lm: the shared encoder; a lexicon needs none.
        recipe: how it is made.
        rows: reads a data set.
        store: where it goes.
        replace: supersede a factor of that name however it was made, and keep it among its versions.
        seed: of training and of what is drawn.
        report: told of progress.

    Raises:
        InputError: if a data set is missing, or has too few texts of a kind, or the store has another factor of that
            name and `replace` is not set.
    """
    if not replace:
        check_replaceable(store, recipe)
    if recipe.kind == "lexicon":
        manifest = Manifest(
            name=recipe.name, description=recipe.description, licence=recipe.licence, settings=recipe.settings
        )
        manifest = _dated(manifest, recipe)
        return Built(_put(store, recipe, manifest), manifest, {})
    assert lm is not None
    examples = recipe.examples(rows)
    tests: dict[str, Sequence[Example]] = {**recipe.held_out(rows)}
    trained = train_head(lm, examples, recipe.about, tests=tests, own_texts=recipe.own_texts, seed=seed, report=report)
    head = Head(recipe.name, trained.weights.to(lm.device), lm, trained.manifest.strengths)
    held_out = split(examples).dev
    judge, accuracy = sentence_judge(held_out)
    response = measure_response(
        lm, head, judge, judge_name=f"sentence vectors, from {len(held_out)} texts held out of training",
        accuracy=accuracy, seed=seed, report=report,
    )  # fmt: skip
    manifest = _dated(trained.manifest.model_copy(update={"response": response}), recipe)
    return Built(_put(store, recipe, manifest, trained.tensors), manifest, trained.seconds)


def _put(store: Store, recipe: Recipe, manifest: Manifest, tensors: dict[str, Tensor] | None = None) -> Path:
    """Save it; what its recipe made before can be made again, but anything else is kept."""
    if _other(store, recipe):
        return versions.supersede(store, manifest, tensors)
    return store.save(manifest, tensors, replace=True)


def _dated(manifest: Manifest, recipe: Recipe) -> Manifest:
    data = manifest.data.model_copy(update={"recipe": recipe.command, "recipe_digest": recipe.digest})
    return manifest.model_copy(update={"version": recipe.version, "data": data})
