"""From the files of a factor to the factor, by kind: what `store.load` does once they are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from factorlm.factors.manifest import Manifest
    from factorlm.factors.unbound import Unbound

WEIGHTS = "weights.safetensors"


def _head(manifest: Manifest, folder: Path) -> Unbound:
    import safetensors
    import safetensors.torch

    from factorlm.factors.head import HeadWeights, UnboundHead

    if WEIGHTS not in manifest.files:
        raise IntegrityError(f"{folder} has no sha256 of {WEIGHTS}; install the factor again")
    try:
        found = safetensors.torch.load_file(folder / WEIGHTS)
        weights = HeadWeights(found["bias"], found["up"], found["down"])
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise IntegrityError(
            f"{folder / WEIGHTS} cannot be read as a head ({error}); install the factor again"
        ) from None
    if manifest.encoder is None:
        raise IntegrityError(f"{folder} does not say for which encoder it was made; install the factor again")
    width, rank = manifest.encoder.width, getattr(manifest.settings, "rank", 0)
    shapes = tuple(tuple(t.shape) for t in (weights.bias_D, weights.up_DR, weights.down_RD))
    if shapes != ((width,), (width, rank), (rank, width)):
        raise IntegrityError(
            f"{folder / WEIGHTS}: a head of width {width} and rank {rank} is needed, got shapes {shapes}; install again"
        )
    if not all(tensor.isfinite().all() for tensor in (weights.bias_D, weights.up_DR, weights.down_RD)):
        raise IntegrityError(f"{folder / WEIGHTS} holds numbers that are not finite; install the factor again")
    return UnboundHead(manifest.name, manifest.strengths, weights, manifest.encoder)


def _lexicon(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.manifest import LexiconSettings
    from factorlm.factors.wordlist import UnboundLexicon

    assert isinstance(manifest.settings, LexiconSettings)
    return UnboundLexicon.from_settings(manifest.name, manifest.strengths, manifest.settings)


def _prompt(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.manifest import PromptSettings
    from factorlm.factors.prompt import UnboundPrompt

    assert isinstance(manifest.settings, PromptSettings)
    return UnboundPrompt(manifest.name, manifest.strengths, manifest.settings.instruction)


def _contrast(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.contrast import UnboundContrast
    from factorlm.factors.manifest import ContrastSettings

    assert isinstance(manifest.settings, ContrastSettings)
    return UnboundContrast(manifest.name, manifest.strengths, manifest.settings.expert, manifest.settings.anti_expert)


def _grammar(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.manifest import GrammarSettings
    from factorlm.factors.named import grammar

    assert isinstance(manifest.settings, GrammarSettings)
    try:
        return grammar(name=manifest.name, **manifest.settings.model_dump(exclude={"kind"}))
    except InputError as error:
        raise IntegrityError(f"{folder} cannot be used: {error}") from None


KINDS: dict[str, Callable[[Manifest, Path], Unbound]] = {
    "head": _head,
    "lexicon": _lexicon,
    "prompt": _prompt,
    "contrast": _contrast,
    "grammar": _grammar,
}
