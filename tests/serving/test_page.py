"""The page: how its files are served, that nothing in them points elsewhere, and that every control has a name."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from factorlm.diffusion.shipped import SHIPPED_GUIDES
from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.factors.strength import StrengthMap
from factorlm.inference import Model
from factorlm.memory.card import MemoryCard, ModelMark
from factorlm.models import CausalLM
from factorlm.prior.files import FOLDER as PRIORS
from factorlm.prior.manifest import Base, ComponentCard, Portrait, Prompts
from factorlm.prior.manifest import Manifest as PriorManifest
from factorlm.serving.page_routes import MEDIA_TYPES, accepts_gzip, page_files
from factorlm.serving.settings import ServerSettings

from .conftest import Serve, Served, started

PAGE = Path(__file__).parents[2] / "src/factorlm/serving/page"
NAMES = sorted(path.name for path in PAGE.iterdir())
SCRIPTS = [name for name in NAMES if name.endswith(".js")]
MOST_BYTES = 300_000  # of all files, compressed
SPACE_OF_SVG = "http://www.w3.org/2000/svg"  # a name, which nothing asks for
CONTROLS = {"button", "input", "select", "textarea"}
VOID = {"input", "link", "meta", "br", "hr", "img"}  # without an end


class Controls(HTMLParser):
    """Collects the controls of a page with what names them, and all attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.controls: list[dict[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: Counter[str] = Counter()
        self.label_for: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if found.get("id"):
            self.ids[str(found["id"])] += 1
        if tag in CONTROLS:
            in_label = any(name == "label" for name, _ in self.open)
            about = {"tag": tag, "id": found.get("id") or "", "said": found.get("aria-label") or "", "text": ""}
            self.controls.append({**about, "in_label": "yes" if in_label else ""})
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag, found in self.open:
            if tag == "label" and found.get("for"):
                self.label_for[str(found["for"])] = self.label_for.get(str(found["for"]), "") + data
        if any(tag == "button" for tag, _ in self.open):
            self.controls[-1]["text"] += data.strip()


@pytest.fixture(scope="module")
def html() -> Controls:
    parser = Controls()
    parser.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def server(chat_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests that only look at files."""
    settings = ServerSettings(state=tmp_path_factory.mktemp("state"), port=0)
    with started(Model(chat_lm, chat_lm), "tiny", settings) as served:
        yield served


# How it is served


@pytest.mark.parametrize("name", ["", *(f"page/{name}" for name in NAMES)])
def test_files_are_served_as_what_they_are_and_may_load_nothing_from_elsewhere(server: Served, name: str) -> None:
    answer = server.client.get(f"/{name}")
    path = PAGE / (name.removeprefix("page/") or "index.html")
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_file_is_sent_once_and_packed_for_those_who_can_unpack(server: Served) -> None:
    plain = server.client.get("/page/desk.css", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with server.client.stream("GET", "/page/desk.css", headers={"Accept-Encoding": "br, gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    tags = [plain.headers["etag"], answer.headers["etag"]]
    assert tags[0] != tags[1]
    for tag, accepted in zip(tags, ("identity", "gzip"), strict=True):
        again = server.client.get(
            "/page/desk.css", headers={"If-None-Match": f'"x", {tag}', "Accept-Encoding": accepted}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag


@pytest.mark.parametrize(
    "path",
    ["page/../app.py", "page/..%2fapp.py", "page/%2e%2e/app.py", "page/..%5capp.py", "page/", "page/none.js", "page",
     "page/desk.css%00.js", "page//etc/passwd", "page/index.html/../../keys.py", "page/__init__.py"],
)  # fmt: skip
def test_nothing_else_is_served(server: Served, path: str) -> None:
    with httpx.Client() as client:  # a URL as it is written, dots and all
        request = client.build_request("GET", server.url)
        request.url = request.url.copy_with(raw_path=f"/{path}".encode())
        answer = client.send(request)
    assert answer.status_code == 404
    assert "message" in answer.json()["error"]


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [("gzip", True), ("br;q=1, GZIP;q=0.5", True), ("*", True), ("", False), ("br", False), ("gzip;q=0", False),
     ("gzip; q=0.000", False), ("identity", False), ("gzip;q=0.001", True)],
)  # fmt: skip
def test_gzip_only_where_it_is_wanted(header: str, is_accepted: bool) -> None:
    assert accepts_gzip(header) is is_accepted


def test_the_whole_page_is_small() -> None:
    assert set(page_files()) == set(NAMES)
    assert sum(len(file.packed) for file in page_files().values()) < MOST_BYTES


# What is in the files


def test_every_file_that_is_named_exists_and_every_script_is_asked_for_at_once(html: Controls) -> None:
    named = [value for _, name, value in html.attributes if name in ("href", "src")]
    assert all(re.fullmatch(r"#\w+|page/[\w.]+(#\w+)?", value) for value in named)
    files = {value.removeprefix("page/").partition("#")[0] for value in named if value.startswith("page/")}
    for script in SCRIPTS:
        found = re.findall(r'^import .* from "\./([\w.]+)";$', _text(script), re.MULTILINE)
        assert len(found) == len(re.findall(r"\bfrom \"|\bimport\(|^import \"", _text(script), re.MULTILINE)), script
        files |= set(found)
    assert files <= set(NAMES)
    assert set(SCRIPTS) <= {value.removeprefix("page/") for value in named}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_points_elsewhere(name: str) -> None:
    text = _text(name).replace(SPACE_OF_SVG, "")
    assert re.findall(r"https?:|\bwss?:|\burl\(|@import|[\"'`(]//", text) == []


def test_pictures_that_are_used_are_there(html: Controls) -> None:
    drawn = set(re.findall(r'<symbol id="(\w+)"', _text("icons.svg")))
    used = {value.partition("#")[2] for tag, _, value in html.attributes if tag == "use"}
    used |= {name for script in SCRIPTS for name in re.findall(r'\b(?:icon|thumb|tool)\("(\w+)"', _text(script))}
    assert used == drawn


def test_the_page_obeys_its_own_policy(html: Controls) -> None:
    assert [(tag, name) for tag, name, _ in html.attributes if name == "style" or name.startswith("on")] == []
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|javascript:", _text("index.html")) is None
    for script in SCRIPTS:
        assert re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", _text(script)) is None


def test_every_control_has_a_name(html: Controls) -> None:
    nameless = [
        control
        for control in html.controls
        if not (
            control["said"] or control["text"] or control["in_label"] or html.label_for.get(control["id"], "").strip()
        )
    ]
    assert nameless == []


def test_ids_are_given_once_and_all_that_are_looked_for_exist(html: Controls) -> None:
    assert [name for name, count in html.ids.items() if count > 1] == []
    wanted = {value for _, name, value in html.attributes if name in ("for", "aria-labelledby")}
    wanted |= {name for script in SCRIPTS for name in re.findall(r'\bbyId\("([\w-]+)"\)', _text(script))}
    assert wanted - set(html.ids) == set()


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


# What it is told


def test_the_desk_tells_what_can_be_mixed(serve: Serve, store: Store, tmp_path: Path) -> None:
    strengths = StrengthMap(points=((-0.5, -2.0), (0.0, 0.0), (0.5, 2.0)))
    settings = LexiconSettings(phrases={"good": 2.0})
    store.save(Manifest(name="kind", description="Good words.", settings=settings, strengths=strengths))
    store.save(Manifest(name="clean", settings=LexiconSettings(phrases={"bad": None})), replace=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text("{")
    (tmp_path / "broken" / "prior.json").write_text("{}")
    places = {"broken": tmp_path / "broken"}
    told = serve(memories=places, priors=places).client.get("/v1/desk").json()
    assert told["model"] == {"id": "tiny", "max_tokens": 256, "chat": True}
    by_name = {factor["name"]: factor for factor in told["factors"]}
    assert by_name["kind"]["unit"] == "strength"
    assert by_name["kind"]["range"] == [-0.5, 0.5]
    assert by_name["kind"]["points"] == [list(point) for point in strengths.points]
    assert by_name["kind"]["owner"] == "server"
    assert by_name["clean"]["unit"] == "exponent"  # it only bans
    assert "positive" not in by_name  # the shelf's heads are for another model
    assert {guide["name"] for guide in told["guides"]} == {path.name for path in SHIPPED_GUIDES.iterdir()}
    assert (told["memories"], told["priors"]) == ([], [])  # what cannot be read cannot be mixed
    assert len(set(told["colours"])) == len(told["colours"])


def test_memories_and_priors_are_told_with_what_they_are_made_of(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "office").mkdir()
    mark = ModelMark(name="tiny", vocabulary="0")
    about = MemoryCard(kind="infini", model=mark, num_documents=3, num_tokens=1200, licence="CC0-1.0")
    (tmp_path / "office" / "index.json").write_text(about.model_dump_json())
    portrait = Portrait(tokens=tuple(f"t{n}" for n in range(20)), typical=("Once.", "Twice.", "Thrice."))
    components = (
        ComponentCard(name="tale", weight=0.75, learned_weight=0.5, portrait=portrait),
        ComponentCard(name="report", weight=0.25, learned_weight=0.5),
    )
    kind, base = Prompts(assumptions=("A tale.", "A report.")), Base(name="tiny", fingerprint="0")
    PRIORS.write(tmp_path / "genres", PriorManifest(kind=kind, base=base, components=components), {})
    served = serve(memories={"office": tmp_path / "office"}, priors={"genres": tmp_path / "genres"})
    told = served.client.get("/v1/desk").json()
    assert told["memories"] == [
        {"name": "office", "kind": "infini", "description": "3 documents, 1,200 tokens", "licence": "CC0-1.0"}
    ]
    (prior,) = told["priors"]
    assert (prior["name"], prior["kind"]) == ("genres", "prompt")
    assert [(one["name"], one["weight"]) for one in prior["components"]] == [("tale", 0.75), ("report", 0.25)]
    assert prior["components"][0]["typical"] == ["Once.", "Twice."]
    assert len(prior["components"][0]["tokens"]) == 8


def test_the_desk_needs_a_key_where_keys_are_needed(serve: Serve) -> None:
    served = serve()
    secret = served.database.create_key("reader", "somebody", ["read"])
    assert served.client.get("/").status_code == 200  # the page itself holds no secrets
    assert served.client.get("/v1/desk").status_code == 401
    assert served.client.get("/v1/desk", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    assert json.loads(served.client.get("/v1/desk").content)["error"]["message"]
