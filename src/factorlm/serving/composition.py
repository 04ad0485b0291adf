"""From a recipe to the composition that writes: what a request puts onto the served model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from factorlm.algebra import Factor, map_leaves
from factorlm.errors import InputError
from factorlm.factors import bind, factor, grammar
from factorlm.inference import Model
from factorlm.inference.memories import memory_factor, remember
from factorlm.inference.retrieved import retrieve_for
from factorlm.inference.strengths import exponent_of
from factorlm.memory.card import kind_of
from factorlm.memory.retrievers import open_passages
from factorlm.models import CausalLM
from factorlm.prior import Prior
from factorlm.serving.jobs import Recipe

LANGUAGES: dict[str, Callable[[str], dict[str, Any]]] = {
    "json_schema": lambda content: {"json_schema": content},
    "regex": lambda content: {"regex": content},
    "grammar": lambda content: {"rules": content},
    "choice": lambda content: {"choices": json.loads(content)},
}


class Composer:
    """Composes recipes onto one reader of the served model; what is dear to open is opened once.

    Args:
        served: the served composition.
    """

    def __init__(self, served: Model) -> None:
        self.served = served
        self.language = lru_cache(maxsize=64)(self._language)
        self.passages = lru_cache(maxsize=8)(open_passages)
        self.mixed = lru_cache(maxsize=8)(self._mixed)
        self.multiplied = lru_cache(maxsize=8)(self._multiplied)
        self.prior = lru_cache(maxsize=4)(self._prior)

    def compose(self, recipe: Recipe, prompt: str) -> Model:
        """The composition that writes; the mean of a prior's components where one is asked for.

        Args:
            recipe: what is put onto the served model.
            prompt: what will be continued; passages are looked for with it.

        Raises:
            FactorlmError: naming what cannot be composed.
        """
        model = self.served
        if recipe.prior is not None:
            name, folder, mode = recipe.prior
            if len(model.terms) > 1:
                raise InputError(f"the prior {name!r} takes the model's place, but factors are served with it; drop it")
            prior = self.prior(folder)
            model = Model(prior.blend if mode == "blend" else prior.mixture, model.lm)
        model = self.with_factors(model, recipe)
        passages = [memory for memory in recipe.memories if kind_of(memory[1]) == "passages"]
        others = [memory for memory in recipe.memories if memory not in passages]
        for _, folder, number in others:
            if recipe.memory_mode == "multiply":
                memory = self.multiplied(folder)
                model = model * memory ** exponent_of(model.lm, memory, number)
            else:
                model = remember(model, self.mixed(folder, number), most=number)
        for name, folder, number in passages:
            found = retrieve_for(model, self.passages(folder), prompt, name=name)
            model = model * found.factor**number
        if recipe.language is not None:
            model = model * self.language(*recipe.language)
        return model

    def with_factors(self, model: Model, recipe: Recipe) -> Model:
        """A model times the factors of a recipe."""
        for dose in recipe.doses:
            bound = bind(factor(str(dose.folder)), model.lm)
            model = model * bound**dose.exponent
        return model

    def _language(self, kind: str, content: str) -> Factor:
        return bind(grammar(**LANGUAGES[kind](content)), self.served.lm)

    def _mixed(self, folder: Path, most: float) -> Any:
        from factorlm.inference.memories import memory_at

        return memory_at(folder, self.served.lm, most)

    def _multiplied(self, folder: Path) -> Factor:
        return memory_factor(self.served.lm, folder)

    def _prior(self, folder: Path) -> Prior:
        return Prior.load(str(folder), self.served.lm)


def over(served: Model, lm: CausalLM) -> Model:
    """The same composition over another reader of the same weights.

    Raises:
        InputError: for a composition with parts that hold on to their reader.
    """

    def change(leaf: Factor) -> Factor:
        if leaf is served.lm:
            return lm
        if getattr(leaf, "lm", None) is None:
            if isinstance(leaf, CausalLM):
                raise InputError("one language model is served, with factors; start a second server for the other")
            return leaf
        if is_dataclass(leaf) and any(f.name == "lm" for f in fields(leaf)) and leaf.lm is served.lm:
            return replace(leaf, lm=lm)
        raise InputError(f"a language model with factors can be served, got a {type(leaf).__name__} in it")

    return Model(map_leaves(served.factor, change), lm)
