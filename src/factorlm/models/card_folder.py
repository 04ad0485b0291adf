"""Things on disk that are a card and numbers: a folder of a JSON file and `weights.safetensors`, written whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import safetensors
import safetensors.torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from factorlm.errors import InputError, IntegrityError
from factorlm.files import write_whole_folder
from factorlm.models.download import file_sha256
from factorlm.settings import Config, explain_validation

WEIGHTS = "weights.safetensors"
MAX_CARD_BYTES = 2**22


class Card(Config):
    """What is said of a thing.

    Attributes:
        files: sha256 by name.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    files: dict[str, str] = Field(default_factory=dict)


AnyCard = TypeVar("AnyCard", bound=Card)


@dataclass(frozen=True)
class CardFolder(Generic[AnyCard]):
    """A kind of things.

    Attributes:
        what: the kind, such as "prior".
        card_name: name of the file of the card.
        card: its class.
        made_by: the command that makes one.
        anew: how a broken one is mended, such as "learn the prior anew".
    """

    what: str
    card_name: str
    card: type[AnyCard]
    made_by: str
    anew: str

    def is_one(self, path: Path | str) -> bool:
        """Whether there is one in this folder."""
        return (Path(path) / self.card_name).is_file()

    def read_card(self, path: Path | str) -> AnyCard:
        """What is said of one; its numbers are not read.

        Raises:
            InputError: if there is none.
            IntegrityError: if its card cannot be used.
        """
        folder = Path(path)
        place = folder / self.card_name
        if not self.is_one(folder):
            raise InputError(f"a folder with a {self.card_name} is needed, got {folder}; {self.made_by} makes one")
        try:
            content = place.read_bytes()
            if len(content) > MAX_CARD_BYTES:
                raise IntegrityError(f"{place} is larger than {MAX_CARD_BYTES} bytes; {self.anew}")
            return self.card.model_validate_json(content)
        except OSError as error:
            raise InputError(f"{place} cannot be read: {error.strerror or error}; see to its rights") from None
        except ValidationError as error:
            raise IntegrityError(str(explain_validation(error, str(place)))) from None

    def read(self, path: Path | str) -> tuple[AnyCard, dict[str, Tensor]]:
        """Card and numbers, checked against their sums.

        Raises:
            InputError: if there is none.
            IntegrityError: if a file is not what the card says.
        """
        folder, card = Path(path), self.read_card(path)
        if WEIGHTS not in card.files:
            return card, {}
        again = f"copy the {self.what} again"
        try:
            if file_sha256(folder / WEIGHTS) != card.files[WEIGHTS]:
                raise IntegrityError(f"{folder / WEIGHTS} is not the file that {self.card_name} names; {again}")
            return card, safetensors.torch.load_file(folder / WEIGHTS)
        except (OSError, safetensors.SafetensorError) as error:
            raise IntegrityError(f"{folder / WEIGHTS} cannot be read ({error}); {again}") from None

    def check_place(self, path: Path | str, *, replace: bool) -> None:
        """Raise InputError if one could not be written there."""
        target = Path(path)
        if target.exists() and not replace:
            raise InputError(f"there is something at {target}; name another place with --out, or give --replace")
        if target.exists() and not self.is_one(target):
            raise InputError(f"{target} is not a {self.what}, so it is not replaced; name another place with --out")

    def write(self, path: Path | str, card: AnyCard, tensors: dict[str, Tensor], *, replace: bool = False) -> None:
        """Write one.

        Raises:
            InputError: if there is something already and `replace` is not set, a number is not finite, or the place
                cannot be written.
        """
        target = Path(path)
        self.check_place(target, replace=replace)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise InputError(
                    f"finite numbers are needed in {name}, got others; not saved: learn with smaller steps"
                )

        def fill(folder: Path) -> None:
            files = {}
            if tensors:
                safetensors.torch.save_file({k: t.cpu().contiguous() for k, t in tensors.items()}, folder / WEIGHTS)
                files[WEIGHTS] = file_sha256(folder / WEIGHTS)
            complete = card.model_copy(update={"files": files})
            (folder / self.card_name).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
            self.read_card(folder)

        try:
            write_whole_folder(target, fill)
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror or error}; name another place") from None
