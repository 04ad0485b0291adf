"""Where judges are kept: the user's own folder, then the shelf of the package. All that is read is checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from factorlm.errors import InputError, IntegrityError, UnknownNameError
from factorlm.evaluation.judges.card import FREE_LICENCES, JudgeCard
from factorlm.evaluation.judges.judge import Classifier, Judge
from factorlm.factors.manifest import NAME_PATTERN
from factorlm.factors.store import verify_weights
from factorlm.files import write_whole_folder
from factorlm.models.download import file_sha256
from factorlm.settings import explain_validation

CARD, WEIGHTS = "judge.json", "weights.safetensors"
SHELF = Path(__file__).parent / "shelf"  # the judges that the package ships
TRAIN = "factorlm eval judge train makes more, factorlm eval judge list shows all"


@dataclass(frozen=True)
class JudgeStore:
    """A folder of judges, one folder each."""

    folder: Path

    def names(self) -> list[str]:
        """Names of the judges in it, sorted."""
        if not self.folder.is_dir():
            return []
        found = (path.parent.name for path in self.folder.glob(f"*/{CARD}"))
        return sorted(name for name in found if not name.startswith("."))

    def check(self, name: str, licences: dict[str, str]) -> None:
        """Raise InputError if a judge of this name, trained on sets of these licences, could not be saved here."""
        if not re.fullmatch(NAME_PATTERN, name):
            raise InputError(f"a name is small letters, digits, - and _, beginning with a letter, got {name!r}")
        kept = [f"{part} ({licence})" for part, licence in licences.items() if licence not in FREE_LICENCES]
        if kept and self.folder.resolve() == SHELF.resolve():
            raise InputError(f"judge {name} cannot be shipped, it learns from {', '.join(kept)}; give another --out")

    def save(self, card: JudgeCard, tensors: dict[str, Tensor]) -> Path:
        """Write a judge, whole or not at all; one of the same name is superseded.

        Raises:
            InputError: if it is under its floor, may not be shipped and this is the shelf, or cannot be written.
        """
        card.check_floor()
        self.check(card.name, {source.name: source.licence for source in card.train})
        target = self.folder / card.name

        def write(folder: Path) -> None:
            safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS)
            complete = card.model_copy(update={"files": {WEIGHTS: file_sha256(folder / WEIGHTS)}})
            (folder / CARD).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")

        try:
            write_whole_folder(target, write)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{target} cannot be written: {reason}; set FACTORLM_JUDGES to another folder") from error
        return target


def judge_stores() -> list[JudgeStore]:
    """Where judges are looked up: the user's own store ($FACTORLM_JUDGES), then the shelf of the package."""
    own = os.environ.get("FACTORLM_JUDGES") or platformdirs.user_data_path("factorlm") / "judges"
    return [JudgeStore(Path(own)), JudgeStore(SHELF)]


def judge_folders() -> dict[str, Path]:
    """The folder of every judge that can be named; the user's own go before those of the shelf."""
    return {name: store.folder / name for store in reversed(judge_stores()) for name in store.names()}


def judge_names() -> list[str]:
    """Names of all judges that are here, sorted."""
    return sorted(judge_folders())


def judge_folder(name: str) -> Path:
    """The folder of a judge, by name or path.

    Raises:
        UnknownNameError: if there is none; near names are listed.
    """
    if os.sep in name and Path(name).is_dir():
        return Path(name)
    known = judge_folders()
    if name not in known:
        raise UnknownNameError.of("judge", name, known, TRAIN)
    return known[name]


def read_card(folder: Path) -> JudgeCard:
    """The card of a judge folder.

    Raises:
        IntegrityError: if it is missing or broken.
    """
    path = folder / CARD
    try:
        return JudgeCard.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise IntegrityError(f"{path}: {explain_validation(error, 'the card')}; train the judge again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is not readable JSON ({error}); train the judge again") from None


def load_judge(name: str) -> Judge:
    """A judge by name or folder, checked.

    Raises:
        UnknownNameError: if there is no such judge.
        IntegrityError: if its files are not what the card says.
        InputError: if it errs more often than its card allows.
    """
    folder = judge_folder(name)
    card = read_card(folder)
    path = folder / WEIGHTS
    if set(card.files) != {WEIGHTS}:
        raise IntegrityError(
            f"{folder / CARD} must give the sha256 of {WEIGHTS} alone, got {sorted(card.files)}; train the judge again"
        )
    verify_weights(path, card.files[WEIGHTS], "train the judge again")
    card.check_floor()
    try:
        classifier = Classifier.of(card.labels, card.features, safetensors.torch.load_file(path))
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} cannot be read as a judge ({error}); train the judge again") from None
    expected = ((len(card.labels) - 1, card.features.width), (len(card.labels) - 1,))
    shapes = (classifier.weight_KF.shape, classifier.bias_K.shape)
    if shapes != expected:
        raise IntegrityError(f"{path}: weight and bias of shapes {expected} are needed, got {shapes}; train it again")
    return Judge(card, classifier)


def judges_for(label: str) -> list[Judge]:
    """All judges that are here and have a label of this name, the most accurate first; none if there are none."""
    names = (name for name, folder in sorted(judge_folders().items()) if label in read_card(folder).labels)
    return sorted(map(load_judge, names), key=lambda judge: -judge.card.accuracy)


def judge_labels() -> list[str]:
    """All labels that some judge here can give, sorted."""
    return sorted({label for folder in judge_folders().values() for label in read_card(folder).labels})
