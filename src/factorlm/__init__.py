"""factorlm: a language model is a probability distribution, so multiply, mix and steer distributions.

import factorlm as fl

model = fl.load() * fl.factor("positive") ** 2 / fl.factor("toxic")
print(model.generate("The food was")[0].text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factorlm.algebra import Interpolation, LocalProduct, Mixture
    from factorlm.factors import factor, grammar, lexicon, prompt
    from factorlm.inference import (
        Model,
        ModelDraft,
        Particles,
        PromptLookup,
        Sampling,
        cheap_part,
        guided,
        interpolate,
        load,
        mix,
    )
    from factorlm.inference.memories import remember

__version__ = "0.1.0"

# Loaded when first used, so that `import factorlm` and the command line's help are quick.
_HOMES = {
    "Interpolation": "factorlm.algebra",
    "LocalProduct": "factorlm.algebra",
    "Mixture": "factorlm.algebra",
    "Model": "factorlm.inference",
    "ModelDraft": "factorlm.inference",
    "Particles": "factorlm.inference",
    "PromptLookup": "factorlm.inference",
    "Sampling": "factorlm.inference",
    "cheap_part": "factorlm.inference",
    "factor": "factorlm.factors",
    "grammar": "factorlm.factors",
    "guided": "factorlm.inference",
    "interpolate": "factorlm.inference",
    "lexicon": "factorlm.factors",
    "load": "factorlm.inference",
    "mix": "factorlm.inference",
    "prompt": "factorlm.factors",
    "remember": "factorlm.inference.memories",
}

__all__ = [
    "Interpolation",
    "LocalProduct",
    "Mixture",
    "Model",
    "ModelDraft",
    "Particles",
    "PromptLookup",
    "Sampling",
    "__version__",
    "cheap_part",
    "factor",
    "grammar",
    "guided",
    "interpolate",
    "lexicon",
    "load",
    "mix",
    "prompt",
    "remember",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'factorlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
