"""What the package brings: a prior over meanings for the default pair, and guides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from factorlm.diffusion.files import FOLDER, MeaningsCard, load
from factorlm.diffusion.meanings import Meanings
from factorlm.errors import IncompatibleError, InputError
from factorlm.models import CausalLM
from factorlm.models.vectors import DEFAULT_ENCODER, load_encoder

SHELF = Path(__file__).parent / "shelf"
SHIPPED, SHIPPED_GUIDES = SHELF / "meanings", SHELF / "guides"


def load_meanings(lm: CausalLM, path: Path | str | None = None) -> tuple[Meanings, MeaningsCard]:
    """A prior over meanings and its card.

    Args:
        lm: the language model.
        path: of the folder; None takes what is shipped.

    Raises:
        InputError: if there is none, or its encoder is not here.
        IncompatibleError: if it was learned for another language model.
        IntegrityError: if a file is not what the card says.
    """
    card = FOLDER.read_card(SHIPPED if path is None else path)
    if path is None and card.fingerprint != lm.fingerprint:
        raise IncompatibleError(
            f"meanings are shipped for {card.base} only, got {lm.name}; learn them with factorlm guide fit-model, and "
            "name their folder"
        )
    if card.encoder != DEFAULT_ENCODER and not Path(card.encoder).is_dir():
        raise InputError(f"the encoder {card.encoder} that the card names is not here; put it there, or learn anew")
    encoder = load_encoder(card.encoder).encoder  # what is written from here on is not kept on disk

    def encode(texts: Sequence[str]) -> Tensor:
        return encoder.encode(texts).clone()

    return load(SHIPPED if path is None else path, lm, encode), card
