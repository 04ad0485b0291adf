"""From names to models: what cannot be loaded says so in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from factorlm.errors import InputError, UnknownNameError
from factorlm.models.loading import is_present, load_model, load_present


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean smollm2"):
        load_model("smolm2")


def test_a_folder_without_a_model_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no causal language model can be read"):
        load_model(str(tmp_path))


def test_a_broken_configuration_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="broken"):
        load_model(str(folder))


def test_an_unknown_architecture_is_the_callers_mistake(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch", "architectures": ["None"]}))
    with pytest.raises(InputError, match="no causal language model can be read"):
        load_model(str(folder))


def test_pickled_weights_are_not_read(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no causal language model can be read"):
        load_model(str(folder))


def test_a_model_that_a_card_names_must_be_here(tiny_folder: Path) -> None:
    assert is_present(str(tiny_folder))
    assert load_present(str(tiny_folder), dtype="float32", device="cpu") is load_model(
        str(tiny_folder), dtype="float32", device="cpu"
    )
    for name in ("nobody/no-such-model", "/gone/away", "a--b/..", "no such model"):
        assert not is_present(name)
        with pytest.raises(InputError, match="is not here"):
            load_present(name)


def test_an_unknown_number_format(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="auto, float32 or bfloat16, got 'float8'"):
        load_model(str(tiny_folder), dtype="float8")


@pytest.mark.parametrize(("dtype", "number"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_number_format_is_obeyed(tiny_folder: Path, dtype: str, number: torch.dtype) -> None:
    loaded = load_model(str(tiny_folder), dtype=dtype, device="cpu")
    assert loaded.model.dtype == number
    assert loaded.start(torch.tensor([[0]])).log_weight_BV.dtype == torch.float32


def test_the_same_arguments_give_the_same_object(tiny_folder: Path) -> None:
    again = load_model(str(tiny_folder), dtype="float32", device="cpu")
    assert again is load_model(str(tiny_folder), dtype="float32", device="cpu")


def test_start_and_end_tokens_are_found(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder), dtype="float32", device="cpu")
    assert loaded.start_ids == (0,)
    assert loaded.vocabulary.end_ids == (1,)
    assert loaded.vocabulary.token_bytes[0] == loaded.vocabulary.token_bytes[1] == b""


def test_names_of_special_tokens_are_plain_text(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder), dtype="float32", device="cpu")
    ids = loaded.encode_text("so </s> it <s> é€")
    assert not {0, 1} & set(ids)
    assert loaded.vocabulary.decode(ids).decode() == "so </s> it <s> é€"


def test_a_model_without_template_cannot_be_asked(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder), dtype="float32", device="cpu")
    with pytest.raises(InputError, match="no chat template"):
        loaded.encode_message("hello")
