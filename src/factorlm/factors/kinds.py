"""From the files of a factor to the factor, by kind: what `store.load` does once they are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from torch import Tensor

    from factorlm.factors.head import EncoderCard
    from factorlm.factors.manifest import Manifest
    from factorlm.factors.unbound import Unbound

WEIGHTS = "weights.safetensors"


def _checked(manifest: Manifest, folder: Path) -> tuple[dict[str, Tensor], EncoderCard]:
    """The numbers of a trained factor, all of them finite, and the encoder they were made for."""
    import safetensors
    import safetensors.torch

    if WEIGHTS not in manifest.files:
        raise IntegrityError(f"{folder} has no sha256 of {WEIGHTS}; install the factor again")
    try:
        found = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(
            f"{folder / WEIGHTS} cannot be read as a {manifest.kind} ({error}); install the factor again"
        ) from None
    if manifest.encoder is None:
        raise IntegrityError(f"{folder} does not say for which encoder it was made; install the factor again")
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise IntegrityError(f"{folder / WEIGHTS} holds numbers that are not finite; install the factor again")
    return found, manifest.encoder


def _head(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.head import HeadWeights, UnboundHead

    found, encoder = _checked(manifest, folder)
    try:
        weights = HeadWeights(found["bias"], found["up"], found["down"])
    except KeyError as error:
        raise IntegrityError(
            f"{folder / WEIGHTS} cannot be read as a head ({error}); install the factor again"
        ) from None
    width, rank = encoder.width, getattr(manifest.settings, "rank", 0)
    shapes = tuple(tuple(t.shape) for t in (weights.bias_D, weights.up_DR, weights.down_RD))
    if shapes != ((width,), (width, rank), (rank, width)):
        raise IntegrityError(
            f"{folder / WEIGHTS}: a head of width {width} and rank {rank} is needed, got shapes {shapes}; install again"
        )
    return UnboundHead(manifest.name, manifest.strengths, weights, encoder)


def _reward(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.reward import RewardWeights, UnboundReward

    found, encoder = _checked(manifest, folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != {"weight": (encoder.width,), "offset": (1,)}:
        raise IntegrityError(
            f"{folder / WEIGHTS}: a reward of width {encoder.width} is needed, got shapes {shapes}; install again"
        )
    weights = RewardWeights(found["weight"], float(found["offset"]))
    return UnboundReward(manifest.name, manifest.strengths, weights, encoder)


def _adapter(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.adapter import UnboundAdapter
    from factorlm.factors.manifest import AdapterSettings
    from factorlm.models.lora import Adapter

    assert isinstance(manifest.settings, AdapterSettings)
    found, encoder = _checked(manifest, folder)
    adapter = Adapter.of(found, manifest.settings.scale)
    if not adapter.down_RI or set(adapter.down_RI) != set(adapter.up_OR):
        raise IntegrityError(f"{folder / WEIGHTS} lacks one side of an adapter's matrices; install the factor again")
    return UnboundAdapter(manifest.name, manifest.strengths, adapter, encoder)


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
    "reward": _reward,
    "adapter": _adapter,
}
