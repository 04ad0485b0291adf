// The strips of the console: a fader, a number, solo and mute for every factor, guide and memory.

import { byId, el, show } from "./dom.js";
import { exponentOf, short, signed, strengthOf } from "./numbers.js";
import { SCALES, allowed, moved, placeOf, valueAt } from "./scales.js";
import { SHELVES, audible, faderOf, isTouched } from "./setting.js";

export class Console {
  /** `desk` holds the settings; `open(shelf, about)` shows the card of a strip. */
  constructor(desk, open) {
    this.desk = desk;
    this.open = open;
    this.strips = new Map();
    byId("find").addEventListener("input", () => this.filter());
    byId("in-use").addEventListener("click", (event) => {
      const pressed = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(pressed));
      this.filter();
    });
    byId("memory-mode").addEventListener("change", (event) => {
      const setting = desk.setting();
      setting.memoryMode = event.target.value;
      for (const fader of Object.values(setting.memories)) fader.value = allowed(this.scaleOf("memories"), fader.value);
      this.build();
      desk.changed();
    });
    byId("add-guide").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId("guide-words").value.trim();
      if (name === "") return;
      faderOf(desk.setting(), "guides", name).value ||= 10;
      event.target.reset();
      this.build();
      desk.changed();
      this.strips.get(`guides/${name}`).range.focus();
    });
  }

  scaleOf(shelf, about = {}) {
    if (shelf === "factors" && about.unit === "exponent") return SCALES.switch;
    return SCALES[shelf === "memories" ? this.desk.setting().memoryMode : shelf];
  }

  /** The number that a fader can hold, and its unit, for one that was read from a file. */
  checked(shelf, name, value, unit, mode) {
    if (shelf !== "factors")
      return { value: allowed(SCALES[shelf === "memories" ? (mode ?? "interpolate") : shelf], value), unit };
    const about = this.desk.about.factors.find((one) => one.name === name);
    if (about?.unit === "exponent") return { value: Number(value !== 0), unit: "exponent" };
    const strength = unit === "exponent" && about?.points ? strengthOf(about.points, value) : value;
    return { value: within(about, strength), unit: "strength" };
  }

  /** Makes all strips anew, for what the server has and what the setting names besides. */
  build() {
    this.strips.clear();
    for (const shelf of SHELVES) {
      const known = this.desk.about[shelf];
      const words = shelf === "guides" ? this.words(known) : [];
      // Those in use come first, but only when the console is made: a strip must not run away from a hand.
      const isUsed = ({ name }) => isTouched(this.desk.setting()[shelf][name]);
      const all = [...known, ...words];
      const ordered = [...all.filter(isUsed), ...all.filter((about) => !isUsed(about))];
      byId(shelf).replaceChildren(...ordered.map((about) => this.strip(shelf, about)));
      if (shelf !== "factors") show(byId(`shelf-${shelf}`), known.length > 0);
      const scale = document.querySelector(`.scale[data-shelf="${shelf}"]`);
      const { marks, ...track } = this.scaleOf(shelf);
      const mark = (m) => el("span", { style: { "--at": placeOf(track, m) } }, String(m).replace("-", "−"));
      scale.replaceChildren(el("span", { class: "marks" }, marks.map(mark)));
    }
    byId("memory-mode").value = this.desk.setting().memoryMode;
    this.update();
  }

  /** Guides of words that some setting has, which no server lists. */
  words(known) {
    const names = Object.values(this.desk.settings).flatMap((setting) => Object.keys(setting.guides));
    const added = [...new Set(names)].filter((name) => name.includes(":") && !known.some((one) => one.name === name));
    return added.map((name) => ({ name, description: "A guide of these words.", unit: "strength" }));
  }

  strip(shelf, about) {
    const scale = this.scaleOf(shelf, about);
    const isSwitch = scale === SCALES.switch;
    const name = el(
      "button",
      {
        class: "name",
        type: "button",
        title: about.description || about.name,
        "aria-haspopup": "dialog",
        onclick: () => this.open(shelf, about),
      },
      el("i", { class: "dot" }),
      el("span", {}, about.name),
    );
    const range = el("input", {
      type: "range",
      min: 0,
      max: 1,
      step: isSwitch ? 1 : "any",
      value: 0,
      "aria-label": `${about.name}, ${scale.unit}`,
      class: isSwitch ? "switch" : null,
    });
    const number = el("input", {
      type: "number",
      step: "any",
      inputmode: "decimal",
      placeholder: "0",
      "aria-label": `${about.name}, as a number`,
    });
    const exponent = el("output", { class: "exponent" });
    const button = (kind, letter, said) =>
      el(
        "button",
        {
          class: kind,
          type: "button",
          "aria-pressed": "false",
          "aria-label": `${said} ${about.name}`,
          title: said,
        },
        letter,
      );
    const solo = button("solo", "S", "Solo");
    const mute = button("mute", "M", "Mute");
    const node = el(
      "li",
      { class: isSwitch ? "strip is-switch" : "strip", "data-name": about.name },
      name,
      range,
      isSwitch ? el("span", { class: "said" }) : number,
      exponent,
      el("span", { class: "keys" }, solo, mute),
    );
    const strip = { shelf, about, scale, node, range, number, exponent, solo, mute, isSwitch };
    this.strips.set(`${shelf}/${about.name}`, strip);

    range.addEventListener("input", () => this.move(strip, valueAt(scale, Number(range.value))));
    range.addEventListener("dblclick", () => this.move(strip, 0));
    number.addEventListener("change", () => this.move(strip, Number(number.value) || 0));
    solo.addEventListener("click", () => this.press(strip, "solo"));
    mute.addEventListener("click", () => this.press(strip, "mute"));
    range.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const to = ["0", "Delete"].includes(event.key) ? 0 : moved(scale, this.faderOf(strip).value, event.key);
      const pressed = { s: "solo", m: "mute" }[event.key.toLowerCase()];
      if (to !== undefined) this.move(strip, to);
      else if (pressed !== undefined) this.press(strip, pressed);
      else return;
      event.preventDefault();
    });
    return node;
  }

  faderOf({ shelf, about, isSwitch }) {
    return faderOf(this.desk.setting(), shelf, about.name, isSwitch ? "exponent" : "strength");
  }

  move(strip, wanted) {
    const { shelf, about, scale, isSwitch } = strip;
    const value = isSwitch
      ? Number(wanted !== 0)
      : shelf === "factors"
        ? within(about, wanted)
        : allowed(scale, wanted);
    this.faderOf(strip).value = Number(value.toFixed(4));
    this.desk.changed();
  }

  press(strip, what) {
    const fader = this.faderOf(strip);
    fader[what] = !fader[what];
    this.desk.changed();
  }

  /** Shows the setting as it is. */
  update() {
    const setting = this.desk.setting();
    const heard = audible(setting);
    for (const strip of this.strips.values()) {
      this.reflect(strip, setting[strip.shelf][strip.about.name], strip.about.name in heard[strip.shelf]);
    }
    const used = [...this.strips.values()].filter(({ shelf, about }) => isTouched(setting[shelf][about.name]));
    byId("used").textContent = used.filter(({ shelf }) => shelf === "factors").length;
    byId("pane-used").textContent = used.length > 0 ? used.length : "";
    this.filter();
  }

  /** Shows one fader as it is; `fader` is undefined for one that nobody touched. */
  reflect({ shelf, about, scale, node, range, number, exponent, solo, mute, isSwitch }, fader, isHeard) {
    const value = fader?.value ?? 0;
    const [place, zero] = [value, 0].map((x) => placeOf(scale, x));
    range.value = place;
    if (document.activeElement !== number) number.value = value === 0 ? "" : value;
    node.style.setProperty("--from", Math.min(place, zero));
    node.style.setProperty("--to", Math.max(place, zero));
    node.style.setProperty("--zero", zero);
    if (isHeard) node.style.setProperty("--c", this.desk.colours.of(about.name));
    node.dataset.state = isHeard ? "heard" : isTouched(fader) ? "silent" : "idle";
    const power = shelf === "factors" && about.points && value !== 0 ? short(exponentOf(about.points, value)) : "";
    exponent.textContent = power === "" ? "" : `^${power}`;
    const onOff = value ? "on" : "off";
    if (isSwitch) node.querySelector(".said").textContent = onOff;
    const said = isSwitch ? onOff : `${signed(value)}${power === "" ? "" : `, exponent ${power}`}`;
    range.setAttribute("aria-valuetext", value !== 0 && !isHeard ? `${said}, silent` : said);
    solo.setAttribute("aria-pressed", String(fader?.solo ?? false));
    mute.setAttribute("aria-pressed", String(fader?.mute ?? false));
  }

  /** Shows the factors that are looked for; guides and memories are few, and always there. */
  filter() {
    const words = byId("find").value.trim().toLowerCase();
    const onlyUsed = byId("in-use").getAttribute("aria-pressed") === "true";
    const { factors } = this.desk.setting();
    let found = 0;
    for (const { shelf, about, node } of this.strips.values()) {
      if (shelf !== "factors") continue;
      const isWanted = `${about.name} ${about.description}`.toLowerCase().includes(words);
      const isUsed = isTouched(factors[about.name]) || node.contains(document.activeElement);
      found += Number(show(node, isWanted && (!onlyUsed || isUsed)));
    }
    const total = this.desk.about.factors.length;
    byId("no-factors").textContent =
      total === 0
        ? "This server has no factors yet; train one."
        : words !== ""
          ? `No factor is like “${words}”.`
          : "No factor is in use.";
    show(byId("no-factors"), found === 0);
    show(document.querySelector('.scale[data-shelf="factors"]'), found > 0);
  }
}

/** A strength that a factor can reach; its card says how far that is. */
function within(about, strength) {
  const [low, high] = about?.range ?? [-SCALES.factors.far, SCALES.factors.far];
  return Math.min(Math.max(strength, low), high);
}
