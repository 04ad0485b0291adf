"""Uploads: sound factors get their place, everything else gets one line and leaves nothing anywhere."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import ContrastSettings, HeadSettings, LexiconSettings, Manifest, PromptSettings
from factorlm.factors.remotes.inspection import inspect
from factorlm.factors.store import MANIFEST, MAX_CARD_BYTES, WEIGHTS
from factorlm.factors.versions import kept_versions
from factorlm.models import CausalLM
from factorlm.serving.settings import Limits

from .conftest import Serve, Served

RANK = 2
Parts = dict[str, bytes]


def weights(width: int = 32, rank: int = RANK, seed: int = 0, **changes: torch.Tensor) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"bias": (width,), "up": (width, rank), "down": (rank, width)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return safetensors.torch.save({**tensors, **changes})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def card(lm: CausalLM, content: bytes | None, **changes: Any) -> dict[str, Any]:
    """factor.json of a head with these weights, as an object, so that it may be spoilt."""
    made_for = EncoderCard(name="tiny", fingerprint=lm.fingerprint, width=lm.width)
    manifest = Manifest(name="mild", settings=HeadSettings(rank=RANK), encoder=made_for)
    files = {WEIGHTS: sha256(content)} if content is not None else {}
    return {**json.loads(manifest.model_dump_json()), "files": files, **changes}


def head(lm: CausalLM, content: bytes | None = None, **changes: Any) -> Parts:
    content = weights() if content is None else content
    return {MANIFEST: json.dumps(card(lm, content, **changes)).encode(), WEIGHTS: content}


def words(name: str = "words", version: str = "0.1.0", **phrases: float | None) -> Parts:
    settings = LexiconSettings(phrases=phrases or {"good": 1.0})
    return {MANIFEST: Manifest(name=name, version=version, settings=settings).model_dump_json().encode()}


def put(server: Served, name: str, parts: Parts, **headers: str) -> httpx.Response:
    files = {part: (part, content) for part, content in parts.items()}
    return server.client.put(f"/v1/factors/{name}", files=files, headers=headers)


def state_files(server: Served) -> dict[str, bytes]:
    """Every file that the server keeps but its database, hidden ones, too."""
    state = server.app.state.settings.state
    found = {path for path in state.rglob("*") if path.is_file() and not path.name.startswith("server.sqlite")}
    return {str(path.relative_to(state)): path.read_bytes() for path in sorted(found)}


def own_folder(server: Served, name: str, tenant: str = "local") -> Path:
    return Path(server.app.state.settings.store_folder(tenant)) / name


def test_a_head_gets_its_place_and_steers(server: Served, chat_lm: CausalLM) -> None:
    parts = head(chat_lm)
    answer = put(server, "mild", parts)
    assert answer.status_code == 201, answer.text
    told = {"name": "mild", "version": "0.1.0", "kind": "head", "sha256": sha256(parts[MANIFEST])}
    assert answer.json() == {**told, "version_before": ""}
    folder = own_folder(server, "mild")
    assert {part: (folder / part).read_bytes() for part in parts} == parts
    inspect(folder)
    asked = {"prompt": "the", "max_tokens": 4, "factors": {"mild": {"exponent": 1.0}}}
    assert server.client.post("/v1/completions", json=asked).status_code == 200


def test_number_formats_that_heads_may_have(server: Served, chat_lm: CausalLM) -> None:
    tensors = safetensors.torch.load(weights())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        content = safetensors.torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()})
        assert put(server, "mild", head(chat_lm, content)).status_code in (200, 201)


def test_what_it_takes_the_place_of_is_kept(server: Served, chat_lm: CausalLM) -> None:
    first, second = head(chat_lm), head(chat_lm, weights(seed=1), version="0.2.0")
    assert put(server, "mild", first).status_code == 201
    answer = put(server, "mild", second)
    assert (answer.status_code, answer.json()["version_before"]) == (200, "0.1.0")
    store = server.app.state.stores.own("local")
    kept = kept_versions(store, "mild")
    assert list(kept) == ["0.1.0"]
    assert {part: (kept["0.1.0"] / part).read_bytes() for part in first} == first
    listed = server.client.get("/v1/factors/mild/versions").json()
    assert [(v["version"], v["sha256"], v["is_current"]) for v in listed["versions"]] == [
        ("0.1.0", sha256(first[MANIFEST]), False),
        ("0.2.0", sha256(second[MANIFEST]), True),
    ]


def test_the_same_again_changes_nothing(server: Served, chat_lm: CausalLM) -> None:
    put(server, "mild", head(chat_lm))
    before = state_files(server)
    answer = put(server, "mild", head(chat_lm))
    assert (answer.status_code, answer.json()["version_before"]) == (200, "")
    assert state_files(server) == before


def test_another_content_of_a_version_is_kept_beside_it(server: Served) -> None:
    for nats in (1.0, 2.0, 3.0):
        assert put(server, "words", words(good=nats)).status_code in (200, 201)
    versions = server.client.get("/v1/factors/words/versions").json()["versions"]
    assert len({version["sha256"] for version in versions}) == 3
    assert [version["is_current"] for version in versions] == [False, False, True]


def test_a_damaged_factor_can_be_replaced(server: Served) -> None:
    put(server, "words", words())
    (own_folder(server, "words") / MANIFEST).write_text("{")
    assert "problem" in next(f for f in server.client.get("/v1/factors").json()["data"] if f["name"] == "words")
    assert put(server, "words", words(good=2.0)).status_code == 200
    inspect(own_folder(server, "words"))


def test_tenants_do_not_see_each_others_factors(server: Served) -> None:
    ann, bob = (
        {"Authorization": f"Bearer {server.database.create_key('x', tenant, ['admin'])}"} for tenant in ("ann", "bob")
    )
    assert put(server, "words", words(good=1.0), **ann).status_code == 201
    assert server.client.get("/v1/factors/words", headers=bob).status_code == 404
    asked = {"prompt": "the", "max_tokens": 1, "factors": {"words": {"exponent": 1.0}}}
    assert server.client.post("/v1/completions", json=asked, headers=bob).status_code == 400
    assert server.client.post("/v1/completions", json=asked, headers=ann).status_code == 200
    assert server.client.delete("/v1/factors/words", headers=bob).status_code == 404
    assert put(server, "words", words(bad=1.0), **bob).status_code == 201
    mine = server.client.get("/v1/factors/words", headers=ann).json()
    assert mine["settings"]["phrases"] == {"good": 1.0}


def zipped(num_bytes: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(WEIGHTS, b"\0" * num_bytes)
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../up"), io.BytesIO())
    return content.getvalue()


class Harmful:
    def __reduce__(self):  # noqa: ANN204
        return (Path.touch, (Path("/tmp/factorlm-harm"),))


def torch_saved() -> bytes:
    content = io.BytesIO()
    torch.save({"bias": torch.zeros(32)}, content)
    return content.getvalue()


def with_header(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def claimed(**shapes: Any) -> bytes:
    """A file that says to hold these shapes and has as many bytes as a sound one."""
    size = 4 * (32 + 2 * 32 * RANK)
    entries = {n: {"dtype": "F32", "shape": s, "data_offsets": [0, size]} for n, s in shapes.items()}
    return with_header(entries, b"\0" * size)


SOUND: dict[str, Any] = {"bias": [32], "up": [32, RANK], "down": [RANK, 32]}
DEEP = b'{"a":' * 20_000

# Contents of weights.safetensors, whose sha256 is right, and what the complaint says.
BAD_WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle": (lambda: pickle.dumps(Harmful()), "a pickle"),
    "an old pickle": (lambda: pickle.dumps(Harmful(), protocol=0), "no safetensors file"),
    "a file of torch": (torch_saved, "a zip archive"),
    "a zip": (lambda: zipped(100), "a zip archive"),
    "a zip bomb": (lambda: zipped(50 << 20), "a zip archive"),
    "gzip": (lambda: gzip.compress(weights()), "a gzip archive"),
    "tar": (tarred, "a tar archive"),
    "nothing": (lambda: b"", "no safetensors file"),
    "text": (lambda: b"hello, this is text", "no safetensors file"),
    "cut in the header": (lambda: weights()[:60], "cut off"),
    "cut in the numbers": (lambda: weights()[:-4], "must have"),
    "too long": (lambda: weights() + b"\0" * 4, "must have"),
    "a header too long": (lambda: with_header(b" " * (1 << 17)), "no safetensors file"),
    "a header beyond the file": (lambda: struct.pack("<Q", 1 << 62) + b"{}", "no safetensors file"),
    "no JSON": (lambda: with_header(b"\x80\x04K\x01."), "no header"),
    "a list": (lambda: with_header([1, 2]), "no header"),
    "deep JSON": (lambda: with_header(DEEP[:60_000]), "no header"),
    "no tensors": (lambda: with_header({}), "got nothing"),
    "another width": (lambda: weights(width=16), "must hold"),
    "another rank": (lambda: weights(rank=3), "must hold"),
    "one tensor too few": (lambda: safetensors.torch.save({"bias": torch.zeros(32)}), "must hold"),
    "one tensor too many": (lambda: weights(more=torch.zeros(3)), "must hold"),
    "shapes turned": (lambda: weights(up=torch.zeros(RANK, 32)), "must hold"),
    "negative shapes": (lambda: claimed(**{**SOUND, "up": [-32, -RANK]}), "must hold"),
    "one place for all": (lambda: claimed(**SOUND), "cannot be read"),
    "huge shapes": (lambda: claimed(**{**SOUND, "up": [2**60, 2**60]}), "must hold"),
    "integers": (
        lambda: safetensors.torch.save({n: torch.ones(*s, dtype=torch.int32) for n, s in SOUND.items()}),
        "I32",
    ),
    "doubles": (lambda: safetensors.torch.save({n: torch.ones(*s).double() for n, s in SOUND.items()}), "F64"),
    "nan": (lambda: weights(bias=torch.full((32,), torch.nan)), "finite"),
    "one infinity": (lambda: weights(down=torch.eye(32)[:RANK].log()), "finite"),
    "numbers that overflow": (lambda: weights(bias=torch.full((32,), 1e30)), "finite numbers up to 1,000,000"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights(server: Served, chat_lm: CausalLM, case: str) -> None:
    make, wanted = BAD_WEIGHTS[case]
    put(server, "mild", head(chat_lm))
    before = state_files(server)
    check_refused(server, put(server, "mild", head(chat_lm, make(), version="0.2.0")), wanted)
    assert state_files(server) == before
    assert not Path("/tmp/factorlm-harm").exists()


def check_refused(server: Served, answer: httpx.Response, wanted: str, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert wanted in message
    assert "\n" not in message
    state = str(server.app.state.settings.state)
    assert state not in message, "places on the server are nobody's business"


def spoilt(**changes: Any) -> Callable[[CausalLM], Parts]:
    return lambda lm: head(lm, **changes)


def raw(content: bytes) -> Callable[[CausalLM], Parts]:
    return lambda lm: {MANIFEST: content, WEIGHTS: weights()}


def settled(settings: Any, **changes: Any) -> Callable[[CausalLM], Parts]:
    card = Manifest(name="mild", settings=settings)
    return lambda lm: {MANIFEST: json.dumps({**json.loads(card.model_dump_json()), **changes}).encode()}


def encoder(lm: CausalLM, **changes: Any) -> dict[str, Any]:
    return {"name": "tiny", "fingerprint": lm.fingerprint, "width": lm.width, **changes}


OTHER = {"name": "other", "fingerprint": "0123456789abcdef", "width": 32}

BAD_CARDS: dict[str, tuple[Callable[[CausalLM], Parts], str]] = {
    "another name": (spoilt(name="cruel"), "says 'cruel'"),
    "a name upwards": (spoilt(name="../mild"), "name"),
    "a version upwards": (spoilt(version="../../0.1.0"), "version"),
    "a version with a line break": (spoilt(version="0.1.0\n"), "version"),
    "a version of other digits": (spoilt(version="٠.1.0"), "version"),
    "a file upwards": (spoilt(files={"../weights.safetensors": "0" * 64}), "only weights.safetensors"),
    "an absolute file": (spoilt(files={"/etc/passwd": "0" * 64}), "only weights.safetensors"),
    "a pickle by name": (spoilt(files={"weights.pkl": "0" * 64}), "only weights.safetensors"),
    "two files": (spoilt(files={WEIGHTS: sha256(weights()), "more.safetensors": "0" * 64}), "only weights.safetensors"),
    "a wrong sha256": (spoilt(files={WEIGHTS: "0" * 64}), "sha256 should be"),
    "no sha256": (spoilt(files={}), "does not have the sha256"),
    "a change upwards": (spoilt(changes=[{"version": "../../up", "what": "x", "sha256": "0"}]), "sha256"),
    "an unknown field": (spoilt(url="http://elsewhere"), "extra inputs"),
    "a later format": (spoilt(format=2), "format"),
    "an unknown kind": (spoilt(settings={"kind": "python", "code": "1"}), "settings"),
    "another encoder": (spoilt(encoder=OTHER), "needed, got one for other (0123456789abcdef)"),
    "no encoder": (spoilt(encoder=None), "got one for none"),
    "a lie about the width": (lambda lm: head(lm, encoder=encoder(lm, width=16)), "16 wide"),
    "a rank too large": (spoilt(settings={"kind": "head", "rank": 10**9}), "rank"),
    "a negative rank": (spoilt(settings={"kind": "head", "rank": -1}), "rank"),
    "an infinite effect": (raw(b'{"name": "mild", "settings": {"kind": "head"}, "effect": {"a": 1e999}}'), "effect"),
    "nan": (raw(b'{"name": "mild", "settings": {"kind": "lexicon", "phrases": {"a": NaN}}}'), "cannot be used"),
    "no JSON": (raw(b"name: mild"), "cannot be used"),
    "not UTF-8": (raw(b'{"name": "\xff\xfe"}'), "not readable JSON"),
    "deep JSON": (raw(DEEP), "cannot be used"),
    "a pickle": (raw(pickle.dumps(Harmful())), "a pickle"),
    "a zip": (raw(zipped(10)), "a zip archive"),
    "empty": (raw(b""), "cannot be used"),
    "weights of a lexicon": (
        lambda lm: {**head(lm, settings={"kind": "lexicon", "phrases": {"a": 1.0}}), WEIGHTS: weights()},
        "a lexicon has no weights",
    ),
    "weights that are not named": (lambda lm: {**words("mild"), WEIGHTS: weights()}, "does not have the sha256"),
    "no weights": (lambda lm: {MANIFEST: head(lm)[MANIFEST]}, "has the sha256"),
    "a head without weights": (lambda lm: {MANIFEST: json.dumps(card(lm, None)).encode()}, "which a head needs"),
    "other models": (settled(ContrastSettings(expert="/etc", anti_expert=None)), "not loaded on a stranger's word"),
    "an instruction too long": (settled(PromptSettings(instruction="a" * 20_000)), "at most 16,384 characters"),
    "no grammar": (settled({"kind": "grammar", "regex": "(("}), "cannot be used"),
    "two grammars": (settled({"kind": "grammar", "regex": "a", "rules": "b"}), "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CARDS)
def test_bad_cards(server: Served, chat_lm: CausalLM, case: str) -> None:
    make, wanted = BAD_CARDS[case]
    check_refused(server, put(server, "mild", make(chat_lm)), wanted)
    assert state_files(server) == {}


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "%2e%2e",
        "..%2F..%2Fup",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "a%0A",
        "A",
        "-a",
        "a" * 65,
        "a%5Cb",
        ".versions",
    ],
)
def test_names_that_are_none(server: Served, name: str) -> None:
    parts = {MANIFEST: words()[MANIFEST].replace(b'"words"', json.dumps(name).encode())}
    for method, path in (("PUT", ""), ("DELETE", ""), ("GET", ""), ("GET", "/versions"), ("GET", "/response")):
        files = {part: (part, content) for part, content in parts.items()} if method == "PUT" else None
        answer = server.client.request(method, f"/v1/factors/{name}{path}", files=files)
        if answer.status_code == 200:  # the client itself made another path of it, such as /v1/factors
            assert answer.request.url.path in ("/v1/factors", "/v1/factors/", "/", "/v1/")
            continue
        assert answer.status_code in (307, 400, 404, 405)
        assert answer.status_code == 307 or len(answer.json()["error"]["message"].splitlines()) == 1
    assert state_files(server) == {}


@pytest.mark.parametrize("name", ["train", "correlations"])
def test_names_that_mean_something_in_paths(server: Served, name: str) -> None:
    check_refused(server, put(server, name, words(name)), "choose another name")
    assert state_files(server) == {}


def test_file_names_of_parts_mean_nothing(server: Served) -> None:
    files = {MANIFEST: ("../../../up.json", words()[MANIFEST])}
    assert server.client.put("/v1/factors/words", files=files).status_code == 201
    assert sorted(path.name for path in own_folder(server, "words").iterdir()) == [MANIFEST, "factor.sha256"]


def test_other_bodies(server: Served) -> None:
    client, content = server.client, words()[MANIFEST]
    sent = {
        "JSON": client.put("/v1/factors/words", content=content, headers={"Content-Type": "application/json"}),
        "nothing": client.put("/v1/factors/words"),
        "a form": client.put("/v1/factors/words", data={"factor.json": content.decode()}),
    }
    for answer in sent.values():
        check_refused(server, answer, "multipart/form-data", 415)
    packed = {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}
    check_refused(
        server, client.put("/v1/factors/words", content=gzip.compress(content), headers=packed), "compressed", 415
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x", b"--x\r\n", b"hello", b"--x--\r\n", b"--x\r\n\r\n\r\n--x--", b"--y\r\n" * 100):
        check_refused(server, client.put("/v1/factors/words", content=body, headers=kind), "")
    start = b'--x\r\nContent-Disposition: form-data; name="factor.json"; filename="a"\r\n\r\n' + content
    rest = b'\r\n--x\r\nContent-Disposition: form-data; name="weights.safetensors"; filename="a"\r\n\r\nabc'
    for body in (start, start + rest):
        check_refused(server, client.put("/v1/factors/words", content=body, headers=kind), "in the middle of a file")
    check_refused(server, put(server, "words", {"more": b"x"}), "is sent once, as a file, got 'more'")
    check_refused(server, put(server, "words", {WEIGHTS: weights()}), "factor.json is needed")
    check_refused(server, put(server, "words", {**words(), WEIGHTS: b"", "more": b""}), "")
    field = client.put("/v1/factors/words", files={MANIFEST: (None, content)})
    check_refused(server, field, "")
    twice = client.put("/v1/factors/words", files=[(MANIFEST, ("a", content)), (MANIFEST, ("b", content))])
    check_refused(server, twice, "is sent once")
    assert state_files(server) == {}


def test_uploads_that_are_too_large(serve: Serve, chat_lm: CausalLM) -> None:
    server = serve(limits=Limits(upload_bytes=200_000))
    big = weights(more=torch.zeros(100_000))
    check_refused(server, put(server, "mild", head(chat_lm, big)), "at most 200,000 bytes", 413)

    def growing():  # noqa: ANN202  # a body that does not say how long it is
        yield b'--x\r\nContent-Disposition: form-data; name="factor.json"; filename="a"\r\n\r\n'
        for _ in range(1000):
            yield b" " * 1000

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = server.client.put("/v1/factors/mild", content=growing(), headers=kind)
        check_refused(server, answer, "at most 200,000 bytes", 413)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # the server hung up before all was sent
    assert state_files(server) == {}


def test_a_card_that_is_too_large(server: Served) -> None:
    phrases = {f"word {number:06}": 1.0 for number in range(60_000)}
    content = words(**phrases)
    assert len(content[MANIFEST]) > MAX_CARD_BYTES
    check_refused(server, put(server, "words", content), f"at most {MAX_CARD_BYTES:,} bytes", 413)
    assert state_files(server) == {}


def test_a_client_that_leaves_in_the_middle_leaves_nothing(server: Served) -> None:
    def breaking():  # noqa: ANN202
        yield b'--x\r\nContent-Disposition: form-data; name="factor.json"; filename="a"\r\n\r\n' + words()[MANIFEST]
        raise ConnectionError

    kind = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "100000"}
    with pytest.raises(ConnectionError):
        server.client.put("/v1/factors/words", content=breaking(), headers=kind)
    assert server.client.get("/v1/factors/words").status_code == 404
    assert state_files(server) == {}


def test_a_tenant_has_so_much_room(server: Served, chat_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factorlm.serving.stores.MOST_BYTES", 10_000)
    statuses = [put(server, "mild", head(chat_lm, weights(seed=n), version=f"0.{n}.0")).status_code for n in range(9)]
    assert statuses[0] == 201
    assert statuses[-1] == 413
    monkeypatch.setattr("factorlm.serving.stores.MOST_BYTES", 10**9)
    monkeypatch.setattr("factorlm.serving.stores.MOST_FACTORS", 1)
    check_refused(server, put(server, "words", words()), "at most 1 factors", 413)
    assert put(server, "mild", head(chat_lm, version="7.0.0")).status_code == 200


def test_too_many_at_once_are_told_to_come_again(server: Served) -> None:
    stores, taken = server.app.state.stores, 0
    while stores._room.acquire(blocking=False):
        taken += 1
    answer = put(server, "words", words())
    assert answer.status_code == 429
    assert "retry-after" in answer.headers
    for _ in range(taken):
        stores._room.release()
    assert put(server, "words", words()).status_code == 201


def test_a_disk_that_is_full_leaves_what_was(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    put(server, "words", words(good=1.0))
    before = state_files(server)

    def fail(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    for target in ("shutil.copyfile", "os.fsync", "factorlm.serving.stores.mkdtemp", "factorlm.serving.uploads._copy"):
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            check_refused(server, put(server, "words", words(good=2.0)), "No space left")
        assert {name: content for name, content in state_files(server).items() if "/.versions/" not in name} == before
    assert put(server, "words", words(good=2.0)).status_code == 200
