"""What is not done inside vLLM, refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from factorlm.engines.vllm.settings import MOST_ALTERNATIVES
from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.serving.jobs import Job, Recipe


def check_abilities(job: Job) -> None:
    """Raise InputError for what is not done inside vLLM."""
    sampling = job.sampling
    cannot = {
        "particles": job.particles is not None,
        "explain": job.explain,
        "typical_p": sampling.typical_p != 1,
        "epsilon_cutoff": sampling.epsilon_cutoff > 0,
        "eta_cutoff": sampling.eta_cutoff > 0,
        "repetition_penalty": sampling.repetition_penalty != 1,
        "dry_multiplier": sampling.dry_multiplier > 0,
        "min_p together with top_p": sampling.min_p > 0 and sampling.top_p < 1,
    }
    for what, is_asked in cannot.items():
        if is_asked:
            raise InputError(f"the vLLM engine does not do {what}; leave it out, or use the embedded engine")
    if job.top > MOST_ALTERNATIVES:
        raise InputError(f"at most {MOST_ALTERNATIVES} alternatives can be told of, got {job.top}; ask for fewer")
    check_recipe(job.recipe)


def check_recipe(recipe: Recipe) -> None:
    """Raise InputError for what cannot be composed inside vLLM."""
    cannot = {"guides": recipe.guides, "memories": recipe.memories, "priors": recipe.prior}
    for what, asked in cannot.items():
        if asked:
            raise InputError(f"the vLLM engine does not do {what}; leave them out, or use the embedded engine")


def language_arguments(kind: str, content: str) -> dict[str, Any]:
    """Arguments of `factorlm.factors.grammar` for a language of a recipe."""
    names = {"json_schema": "json_schema", "regex": "regex", "grammar": "rules", "choice": "choices"}
    return {names[kind]: json.loads(content) if kind == "choice" else content}
