"""The page in a real browser on a real server: by keyboard, on a phone, with a key, and without a word to others."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from factorlm.factors.head import Head
from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.factors.strength import StrengthMap

from .conftest import Serve, Served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = {"width": 390, "height": 844}
WAIT_MS = 120_000  # for a loaded machine
NAMED_ROLES = {
    "button",
    "textbox",
    "searchbox",
    "slider",
    "spinbutton",
    "combobox",
    "checkbox",
    "link",
    "listbox",
    "dialog",
}

if CHROMIUM is None:
    pytest.skip("no Chromium is installed to look at the page with", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser, and is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def server(serve: Serve, store: Store) -> Served:
    """A server with two lexica that can be moved, and one that can be switched."""
    points = ((-1.5, -3.0), (0.0, 0.0), (1.5, 3.0))
    for name, word in (("kind", "good"), ("cruel", "bad")):
        settings = LexiconSettings(phrases={word: 4.0})
        store.save(Manifest(name=name, settings=settings, strengths=StrengthMap(points=points)))
    store.save(Manifest(name="hush", settings=LexiconSettings(phrases={"the": None})))
    return serve()


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, server: Served) -> Iterator[Open]:
    """A page that is open; afterwards it must have complained of nothing, and asked nobody but the server."""
    contexts, troubles = [], []

    def visited(url: str = "", **options: Any) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "accept_downloads": True, **options}
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda r: r.url.startswith((server.url, "blob:")) or troubles.append(f"asked {r.url}"))
        page.goto(url or server.url)
        return page

    yield visited
    for context in contexts:
        context.close()
    own = [line for line in troubles if not line.startswith("Failed to load resource")]  # of which the browser tells
    assert own == []


def fader(page: Any, name: str) -> Any:
    return page.locator(f'.strip[data-name="{name}"] input[type=range]')


def written(page: Any) -> Any:
    page.wait_for_selector(".take[data-state=done]")
    return page.locator(".take").first


def said(page: Any, kind: str) -> float:
    text = page.locator(f".detail .step.{kind} .number").inner_text()
    return float(text.replace("−", "-").replace("+", ""))


def test_the_desk_is_played_by_keyboard(visit: Open) -> None:
    page = visit()
    fader(page, "kind").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    fader(page, "cruel").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("m")
    assert page.locator('.strip[data-name="cruel"] .mute').get_attribute("aria-pressed") == "true"
    assert fader(page, "kind").get_attribute("aria-valuetext") == "+0.60, exponent 1.9"
    page.locator("#prompt").focus()
    page.keyboard.type("the food is")
    page.keyboard.press("Control+Enter")
    take = written(page)
    assert take.locator(".token").count() > 0
    take.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".token[aria-selected=true]").get_attribute("data-index") == "1"
    pushes = [
        float(t.replace("−", "-").replace("+", "")) for t in page.locator(".detail .push .number").all_inner_texts()
    ]
    assert len(pushes) == 1  # the muted factor is not there
    assert said(page, "base") + sum(pushes) + said(page, "normaliser") == pytest.approx(
        said(page, "composed"), abs=0.021
    )
    captions = [caption.split() for caption in page.locator(".detail caption").all_inner_texts()]
    assert captions == [["as", "mixed"], ["without", "kind"], ["base", "alone"]]
    page.keyboard.press("Escape")
    assert page.locator("#detail").is_hidden()
    fader(page, "kind").focus()
    page.keyboard.press("0")
    assert fader(page, "kind").get_attribute("aria-valuetext") == "0.00"


def test_two_settings_are_written_with_one_prompt_and_seed(visit: Open, server: Served) -> None:
    page = visit()
    asked: list[dict[str, Any]] = []
    page.on("request", lambda r: asked.append(json.loads(r.post_data)) if r.url.endswith("/v1/completions") else None)
    page.fill("#prompt", "the food is")
    page.fill('.strip[data-name="kind"] input[type=number]', "0.4")
    page.keyboard.press("Enter")
    page.click("#copy-setting")
    page.click("#which [data-value=B]")
    page.click('.strip[data-name="kind"] .mute')
    fader(page, "hush").focus()
    page.keyboard.press("ArrowRight")
    page.click("#compare")
    page.click("#write")
    take = written(page)
    assert take.locator(".column").count() == 2
    assert [body.get("factors") for body in asked] == [{"kind": 0.4}, {"hush": {"exponent": 1}}]
    assert asked[0]["prompt"] == asked[1]["prompt"] == "the food is"
    assert asked[0]["seed"] == asked[1]["seed"]
    plain = server.client.post("/v1/completions", json={k: v for k, v in asked[0].items() if k != "stream"}).json()
    shown = take.locator(".column").first.locator(".token:not(.the-end)").all_text_contents()
    assert "".join(shown) == plain["choices"][0]["text"]


def test_what_is_said_of_a_text_is_kept(visit: Open, server: Served) -> None:
    page = visit()
    page.fill("#prompt", "the food is")
    page.click("#write")
    take = written(page)
    take.locator("[data-thumb=up]").click()
    page.wait_for_selector("text=kept as no. 1")
    take.get_by_role("button", name="Write how it should be").click()
    take.get_by_label("The text as it should be").fill(" good, and cheap")
    take.get_by_role("button", name="Send").click()
    page.wait_for_selector("text=kept as no. 2")
    first, second = server.database.feedback()
    assert (first.thumb, first.prompt, first.edit) == ("up", "the food is", None)
    assert (second.edit, second.text) == (" good, and cheap", first.text)
    assert first.setting["max_tokens"] == 64


def test_a_setting_leaves_as_a_preset_and_comes_back(visit: Open, tmp_path: Path) -> None:
    page = visit()
    page.fill('.strip[data-name="kind"] input[type=number]', "9")  # farther than it can go
    page.keyboard.press("Enter")
    page.click('.strip[data-name="cruel"] .mute')
    page.fill('.strip[data-name="cruel"] input[type=number]', "-0.25")
    page.keyboard.press("Enter")
    page.click("#sampler summary")
    page.fill("[data-knob=temperature]", "0.5")
    page.keyboard.press("Enter")
    page.click("#export")
    page.click("#language [data-value=preset]")
    with page.expect_download() as saved:
        page.click("#save-program")
    saved.value.save_as(tmp_path / "preset.json")
    preset = json.loads((tmp_path / "preset.json").read_text())
    assert preset["factors"] == {"kind": 1.5}
    page.keyboard.press("Escape")
    page.click("#reset")
    assert fader(page, "kind").get_attribute("aria-valuetext") == "0.00"
    page.set_input_files("#preset-file", tmp_path / "preset.json")
    page.wait_for_selector('.strip[data-name="kind"][data-state=heard]')
    assert page.locator('.strip[data-name="kind"] input[type=number]').input_value() == "1.5"
    assert page.locator('.strip[data-name="cruel"]').get_attribute("data-state") == "silent"
    assert page.locator("[data-knob=temperature]").input_value() == "0.5"
    (tmp_path / "bad.json").write_text("{")
    page.set_input_files("#preset-file", tmp_path / "bad.json")
    page.wait_for_selector("#trouble >> text=bad.json is not JSON")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(visit: Open, server: Served) -> None:
    secret = server.database.create_key("page", "somebody", ["generate"])
    page = visit()
    page.wait_for_selector("#key[open]")
    page.fill("#key-text", "flm_" + "x" * 43)
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-message >> text=not known")
    page.fill("#key-text", secret)
    page.keyboard.press("Enter")
    page.wait_for_selector(".strip")
    assert page.evaluate("Object.values(sessionStorage)").count(secret) == 1
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    assert secret not in page.url
    page.click("#export")
    for language in ("openai", "factorlm", "curl", "preset"):
        page.click(f"#language [data-value={language}]")
        assert secret not in page.locator("#program").inner_text()
    page.keyboard.press("Escape")
    page.click("#forget")
    page.wait_for_selector("#key[open]")
    assert secret not in json.dumps(page.evaluate("Object.values(sessionStorage)"))


def test_a_server_that_went_away_is_told_of(visit: Open, server: Served) -> None:
    page = visit()
    page.wait_for_selector(".strip")
    page.route("**/v1/completions", lambda route: route.abort())
    page.fill("#prompt", "the food is")
    page.click("#write")
    written(page)
    assert "does not answer" in page.locator(".note.bad").inner_text()
    assert page.get_by_role("button", name="Try again").is_visible()


def test_nothing_that_is_shown_is_wider_than_a_phone(visit: Open) -> None:
    page = visit(viewport=PHONE, is_mobile=True, has_touch=True)
    page.wait_for_selector(".strip", state="attached")
    page.fill("#prompt", "the food is")
    page.tap("#pane-write")
    written(page).locator(".token").first.tap()
    page.wait_for_selector("#detail:not([hidden])")
    page.wait_for_timeout(500)  # a finger leaves; the card stays
    assert page.locator("#detail").is_visible()
    assert page.evaluate("getComputedStyle(document.getElementById('detail')).position") == "fixed"
    page.keyboard.press("Escape")
    for place in ("#panes [data-value=console]", "nav >> text=Pictures", "nav >> text=Train"):
        page.tap(place)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], place


@pytest.mark.parametrize("view", ["desk", "pictures", "train"])
def test_every_control_that_is_shown_has_an_accessible_name(visit: Open, server: Served, view: str) -> None:
    page = visit(f"{server.url}/#{view}")
    page.wait_for_selector(".strip", state="attached")
    if view == "desk":
        page.fill("#prompt", "the food is")
        page.click("#write")
        written(page)
        page.click("#sampler summary")
    if view == "pictures":
        page.wait_for_selector("#correlations svg")
        page.wait_for_selector("#dose >> text=No factor here has a measured response")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in NAMED_ROLES]
    assert len(controls) > 5
    assert [node for node in controls if not node["name"]["value"].strip()] == []


def test_a_factor_is_trained_from_pasted_texts_and_put_on_the_desk(visit: Open, make_head: Callable[..., Head]) -> None:
    page = visit()
    page.click("nav >> text=Train")
    page.fill("#train-name", "sunny")
    page.fill("#positive", "\n".join(f"a good day in {letter}{other}" for letter in "abcdef" for other in "ghij"))
    page.fill("#negative", "\n".join(f"a bad day in {letter}{other}" for letter in "abcdef" for other in "ghij"))
    page.click("#train")
    page.click("text=Put it on the desk")
    page.wait_for_selector('.strip[data-name="sunny"][data-state=heard]')
