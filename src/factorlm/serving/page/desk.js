// The desk: what the page knows, and who is told when it changes.

import { Refusal, Server } from "./api.js";
import { Colours } from "./colours.js";
import { announce, byId, el, segmented, show } from "./dom.js";
import { Console } from "./faders.js";
import { Form } from "./form.js";
import { Pictures, doseAndTable } from "./pictures.js";
import { Presets } from "./presets.js";
import { COMMON, SAMPLER, SHELVES, audible, copyOf, emptySetting, faderOf } from "./setting.js";
import { Detail } from "./tokens.js";
import { Tracks } from "./tracks.js";
import { Training } from "./training.js";
import { Writing } from "./writing.js";

const KEPT = "factorlm.desk"; // in the storage of the tab
const VIEWS = ["desk", "pictures", "train"];
const EXAMPLES = [
  { title: "A warm review", prompt: "The food at the station was", factors: { positive: 0.15, sensory: 0.1 } },
  { title: "Long ago, at sea", prompt: "The captain opened the chest and", factors: { archaic: 0.12, fantasy: 0.1 } },
  { title: "Awake among stars", prompt: "When I woke up,", factors: { space: 0.1, fantasy: 0.1 } },
  { title: "A house with a past", prompt: "The old house by the river", factors: { romantic: 0.1, nature: 0.12 } },
];

class Desk {
  constructor() {
    this.server = new Server((message) => this.askForKey(message));
    this.letter = "A";
    this.isCompared = false;
    this.settings = { A: emptySetting(), B: emptySetting() };
    this.common = { ...COMMON };
    this.words = { kind: "text", prompt: "", system: "", turns: [] };
    this.about = {
      model: { id: "", chat: true },
      colours: ["#0072B2"],
      visible: 0.15,
      full: 2,
      factors: [],
      guides: [],
      memories: [],
      priors: [],
      limits: { n: 16, max_tokens: 2048 },
    };
    this.colours = new Colours(this.about.colours);
  }

  setting() {
    return this.settings[this.letter];
  }

  /** Shows the page before the server was asked, then what it has. */
  async open() {
    this.detail = new Detail(this);
    this.console = new Console(this, (shelf, about) => this.openCard(shelf, about));
    this.tracks = new Tracks(this);
    this.form = new Form(this);
    this.writing = new Writing(this, this.detail);
    this.presets = new Presets(this, () => this.writing.said());
    this.pictures = new Pictures(this);
    this.training = new Training(this);
    this.wire();
    this.restore();
    this.show(location.hash.slice(1));
    await this.reload();
  }

  async reload() {
    try {
      this.about = { ...this.about, ...(await this.server.ask("v1/desk")) };
      this.colours.palette = this.about.colours;
      byId("model").textContent = this.about.model.id;
      byId("n").max = this.about.limits.n;
      byId("max_tokens").max = this.about.limits.max_tokens;
      show(byId("kind"), this.about.model.chat);
      this.lamp("ready");
      this.tell("");
    } catch (error) {
      this.lamp("bad");
      this.tell(error.message, () => this.reload());
    }
    show(byId("forget"), this.server.key !== "");
    this.console.build();
    this.tracks.build();
    this.examples();
    this.changed();
    if (document.body.dataset.view === "pictures" && this.about.model.id !== "") this.pictures.open();
  }

  /** Something changed: show it, and keep it for this tab. */
  changed() {
    this.tidyColours();
    this.console.update();
    this.tracks.update();
    this.writing.update();
    this.knobs();
    this.form.update();
    this.pressLetter(this.letter);
    this.pressKind(this.words.kind);
    byId("compare").setAttribute("aria-pressed", String(this.isCompared));
    byId("copy-setting").textContent = `Copy to ${this.letter === "A" ? "B" : "A"}`;
    const { letter, isCompared, settings, common, words } = this;
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ letter, isCompared, settings, common, words }));
    } catch {
      // a full or forbidden storage loses the setting when the tab is closed, no more
    }
  }

  restore() {
    try {
      const { letter, isCompared, settings, common, words } = JSON.parse(sessionStorage.getItem(KEPT));
      Object.assign(this, { letter, isCompared, settings, common, words });
    } catch {
      // nothing was kept
    }
  }

  /** Colours stay with what is on the desk, and with what a take on the page shows. */
  tidyColours() {
    const heard = Object.values(this.settings).flatMap((setting) =>
      SHELVES.flatMap((shelf) => Object.keys(audible(setting)[shelf])),
    );
    const shown = [...document.querySelectorAll(".legend li[data-name]")].map((node) => node.dataset.name);
    this.colours.keep([...heard, ...shown]);
    for (const name of heard) this.colours.of(name);
  }

  wire() {
    this.pressLetter = segmented(byId("which"), (letter) => {
      this.letter = letter;
      this.console.build();
      this.changed();
    });
    this.pressKind = segmented(byId("kind"), (kind) => {
      this.words.kind = kind;
      this.changed();
    });
    this.pressPane = segmented(byId("panes"), (pane) => this.showPane(pane));
    byId("compare").addEventListener("click", () => {
      this.isCompared = !this.isCompared;
      this.changed();
    });
    byId("copy-setting").addEventListener("click", () => {
      this.settings[this.letter === "A" ? "B" : "A"] = copyOf(this.setting());
      announce(`Setting ${this.letter} copied`);
      this.changed();
    });
    byId("reset").addEventListener("click", () => this.take(emptySetting(), this.common));
    for (const knob of document.querySelectorAll("[data-knob]")) {
      knob.addEventListener("change", () => {
        const { sampler } = this.setting();
        const name = knob.dataset.knob;
        if (knob.type !== "number") sampler[name] = knob.value;
        else
          sampler[name] =
            knob.value === ""
              ? SAMPLER[name]
              : Math.min(Math.max(Number(knob.value), Number(knob.min)), knob.max === "" ? Infinity : Number(knob.max));
        this.changed();
      });
    }
    for (const button of document.querySelectorAll("[data-close]"))
      button.addEventListener("click", () => button.closest("dialog").close());
    for (const dialog of document.querySelectorAll("dialog")) {
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
    }
    byId("forget").addEventListener("click", () => {
      this.server.setKey("");
      this.reload();
    });
    addEventListener("hashchange", () => this.show(location.hash.slice(1)));
  }

  show(wanted) {
    const view = VIEWS.includes(wanted) ? wanted : "desk";
    document.body.dataset.view = view;
    for (const name of VIEWS) show(byId(`view-${name}`), name === view);
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.detail.close();
    if (view === "pictures" && this.about.model.id !== "") this.pictures.open();
  }

  showPane(pane) {
    document.body.dataset.pane = pane;
    this.pressPane(pane);
  }

  knobs() {
    const { sampler } = this.setting();
    for (const knob of document.querySelectorAll("[data-knob]"))
      if (document.activeElement !== knob) knob.value = sampler[knob.dataset.knob];
    for (const label of document.querySelectorAll('[data-for="population"]')) show(label, sampler.kind !== "local");
    const changed = Object.keys(SAMPLER).filter((name) => sampler[name] !== SAMPLER[name] && name !== "kind");
    const said = changed
      .filter((name) => sampler.kind !== "local" || !["particles", "resampling", "ess", "limit"].includes(name))
      .map((name) => `${name.replace("_", " ")} ${sampler[name]}`);
    byId("sampler-said").textContent = [sampler.kind, ...said].join(", ");
  }

  examples() {
    const has = (name) => this.about.factors.some((factor) => factor.name === name && factor.unit === "strength");
    const usable = EXAMPLES.filter((example) => Object.keys(example.factors).every(has));
    byId("examples").replaceChildren(
      ...usable.map((example) =>
        el(
          "button",
          {
            class: "quiet example",
            type: "button",
            onclick: () => {
              const setting = emptySetting();
              for (const [name, value] of Object.entries(example.factors))
                faderOf(setting, "factors", name).value = value;
              setting.sampler.top_p = 0.9;
              this.words = { ...this.words, kind: "text", prompt: example.prompt };
              this.take(setting, this.common);
              byId("write").focus();
            },
          },
          el("b", {}, example.title),
          " ",
          el(
            "span",
            { class: "dim" },
            Object.entries(example.factors)
              .map(([name, value]) => `${name} ${value > 0 ? "+" : "−"}${Math.abs(value)}`)
              .join(", "),
          ),
        ),
      ),
    );
  }

  /** Another setting in the place of the one that is shown. */
  take(setting, common) {
    this.settings[this.letter] = setting;
    this.common = { ...common };
    this.console.build();
    this.changed();
  }

  recall(letter, setting) {
    this.letter = letter;
    this.take(copyOf(setting), this.common);
    announce(`Setting ${letter} is back on the desk`);
  }

  put(name, strength) {
    faderOf(this.setting(), "factors", name).value = strength;
    location.hash = "#desk";
    this.changed();
  }

  goOn(messages, answer) {
    this.words.turns = [
      ...messages.filter((message) => message.role !== "system"),
      { role: "assistant", content: answer },
    ];
    this.words.prompt = "";
    this.changed();
    byId("prompt").focus();
  }

  async openCard(shelf, about) {
    const facts = [
      ["kind", about.kind],
      ["version", about.version],
      ["learned from", about.label],
      ["licence", about.licence],
      ["owner", about.owner === "you" ? "you" : ""],
      ["right on held-out texts", about.accuracy && `${Math.round(100 * about.accuracy)} %`],
    ];
    byId("card-title").textContent = about.name;
    const picture = el("div", {});
    byId("card-body").replaceChildren(
      el("p", { class: "lead" }, about.description || "No description."),
      el(
        "dl",
        {},
        facts.filter(([, said]) => said).flatMap(([term, said]) => [el("dt", {}, term), el("dd", {}, said)]),
      ),
      picture,
    );
    byId("card").showModal();
    if (shelf !== "factors" || !about.has_response) return;
    try {
      const response = await this.pictures.response(about.name);
      picture.replaceChildren(
        ...doseAndTable(response, this.colours.of(about.name), this.setting().factors[about.name]?.value ?? 0),
      );
      this.tidyColours();
    } catch (error) {
      picture.replaceChildren(el("p", { class: "note bad" }, error.message));
    }
  }

  /** A key from whoever sits here; null if there is none. */
  askForKey(message) {
    const dialog = byId("key");
    byId("key-message").textContent = message;
    byId("key-text").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener(
        "close",
        () => {
          const key = byId("key-text").value.trim();
          byId("key-text").value = "";
          resolve(dialog.returnValue === "use" && key !== "" ? key : null);
          show(byId("forget"), dialog.returnValue === "use");
        },
        { once: true },
      );
    });
  }

  /** A line at the top of the page, with a way to try again; an empty one takes it away. */
  tell(line, again = null) {
    byId("trouble").replaceChildren(
      line,
      again ? el("button", { class: "quiet", type: "button", onclick: again }, "Try again") : "",
    );
    show(byId("trouble"), line !== "");
  }

  lamp(state) {
    byId("state").dataset.state = state;
    byId("state").title = { ready: "ready", busy: "writing", bad: "no answer", waiting: "asking the server" }[state];
  }
}

const desk = new Desk();
desk.open().catch((error) => {
  if (!(error instanceof Refusal)) throw error;
});
