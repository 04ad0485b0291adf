// The strips of the console: a fader, a number, solo and mute for every factor, guide and memory.

import { byId, el, show } from "./dom.js";
import { exponentOf, plain, short, signed, strengthOf } from "./numbers.js";
import { SHELVES, anySolo, audible, faderOf, isTouched } from "./setting.js";

// What faders of a shelf can say, and the marks beside them.
const SCALES = {
  factors: { low: -1, high: 1, step: 0.05, marks: [-1, -0.5, 0, 0.5, 1], unit: "nats per token", decimals: 2 },
  guides: { low: -30, high: 30, step: 1, marks: [-30, -10, 0, 10, 30], unit: "of the guide", decimals: 0 },
  interpolate: { low: 0, high: 1, step: 0.05, marks: [0, 0.25, 0.5, 0.75, 1], unit: "largest weight", decimals: 2 },
  multiply: { low: -2, high: 2, step: 0.1, marks: [-2, -1, 0, 1, 2], unit: "exponent", decimals: 1 },
};
const FARTHEST = { factors: 1.5, guides: 100, interpolate: 1, multiply: 10 }; // of numbers that are typed

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
      for (const fader of Object.values(setting.memories))
        fader.value = clamped(fader.value, SCALES[setting.memoryMode]);
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

  scaleOf(shelf) {
    return SCALES[shelf === "memories" ? this.desk.setting().memoryMode : shelf];
  }

  /** The number that a fader can hold, and its unit, for one that was read from a file. */
  checked(shelf, name, value, unit, mode) {
    const key = shelf === "memories" ? (mode ?? "interpolate") : shelf;
    const about = this.desk.about[shelf].find((one) => one.name === name);
    if (shelf !== "factors")
      return {
        value: Math.min(Math.max(value, key === "interpolate" ? 0 : -FARTHEST[key]), FARTHEST[key]),
        unit,
      };
    if (about?.unit === "exponent") return { value: value === 0 ? 0 : 1, unit: "exponent" };
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
      const { low, high, marks, decimals } = this.scaleOf(shelf);
      const mark = (m) =>
        el(
          "span",
          { style: { "--at": (m - low) / (high - low) } },
          plain(m, decimals === 0 || Number.isInteger(m) ? 0 : m * 10 === Math.round(m * 10) ? 1 : 2),
        );
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
    const scale = this.scaleOf(shelf);
    const isSwitch = about.unit === "exponent";
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
      min: isSwitch ? 0 : scale.low,
      max: isSwitch ? 1 : scale.high,
      step: isSwitch ? 1 : scale.step,
      value: 0,
      "aria-label": isSwitch
        ? `${about.name}, on or off`
        : `${about.name}, ${shelf === "factors" ? "strength in " : ""}${scale.unit}`,
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
    const strip = { shelf, about, node, range, number, exponent, solo, mute, isSwitch };
    this.strips.set(`${shelf}/${about.name}`, strip);

    range.addEventListener("input", () => this.move(strip, Number(range.value)));
    range.addEventListener("dblclick", () => this.move(strip, 0));
    number.addEventListener("change", () => this.move(strip, Number(number.value) || 0));
    solo.addEventListener("click", () => this.press(strip, "solo"));
    mute.addEventListener("click", () => this.press(strip, "mute"));
    range.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        0: () => this.move(strip, 0),
        Delete: () => this.move(strip, 0),
        s: () => this.press(strip, "solo"),
        m: () => this.press(strip, "mute"),
      }[event.key.toLowerCase()];
      if (act === undefined) return;
      event.preventDefault();
      act();
    });
    return node;
  }

  move(strip, wanted) {
    const { shelf, about } = strip;
    const key = shelf === "memories" ? this.desk.setting().memoryMode : shelf;
    const value = strip.isSwitch
      ? Number(wanted !== 0)
      : shelf === "factors"
        ? within(about, wanted)
        : clamped(wanted, { low: this.scaleOf(shelf).low < 0 ? -FARTHEST[key] : 0, high: FARTHEST[key] });
    const fader = faderOf(this.desk.setting(), shelf, about.name, strip.isSwitch ? "exponent" : "strength");
    fader.value = Number(value.toFixed(4));
    this.desk.changed();
  }

  press(strip, what) {
    const fader = faderOf(this.desk.setting(), strip.shelf, strip.about.name, strip.isSwitch ? "exponent" : "strength");
    fader[what] = !fader[what];
    this.desk.changed();
  }

  /** Shows the setting as it is. */
  update() {
    const setting = this.desk.setting();
    const heard = audible(setting);
    const solo = anySolo(setting);
    let used = 0;
    for (const { shelf, about, node, range, number, exponent, solo: s, mute: m, isSwitch } of this.strips.values()) {
      const fader = setting[shelf][about.name];
      const value = fader?.value ?? 0;
      const isHeard = about.name in heard[shelf];
      used += Number(isTouched(fader));
      range.value = value;
      if (document.activeElement !== number) number.value = value === 0 ? "" : Number(value.toFixed(4));
      const { low, high } = { low: Number(range.min), high: Number(range.max) };
      const share = (Math.min(Math.max(value, low), high) - low) / (high - low);
      const zero = (0 - low) / (high - low);
      node.style.setProperty("--from", Math.min(share, zero));
      node.style.setProperty("--to", Math.max(share, zero));
      node.style.setProperty("--zero", zero);
      if (isHeard) node.style.setProperty("--c", this.desk.colours.of(about.name));
      node.dataset.state = isHeard
        ? "heard"
        : isTouched(fader) && (value !== 0 || fader.mute || fader.solo)
          ? "silent"
          : "idle";
      const power =
        shelf === "factors" && about.points && value !== 0 && !isSwitch
          ? `^${short(exponentOf(about.points, value))}`
          : "";
      exponent.textContent = power;
      const said = isSwitch
        ? value
          ? "on"
          : "off"
        : `${signed(value, this.scaleOf(shelf).decimals)}${power === "" ? "" : `, exponent ${power.slice(1)}`}`;
      range.setAttribute("aria-valuetext", value !== 0 && !isHeard ? `${said}, silent` : said);
      if (isSwitch) node.querySelector(".said").textContent = value ? "on" : "off";
      s.setAttribute("aria-pressed", String(fader?.solo ?? false));
      m.setAttribute("aria-pressed", String(fader?.mute ?? false));
    }
    byId("used").textContent = used;
    byId("pane-used").textContent = used > 0 ? used : "";
    document.querySelector(".console").dataset.solo = String(solo);
    this.filter();
  }

  filter() {
    const words = byId("find").value.trim().toLowerCase();
    const onlyUsed = byId("in-use").getAttribute("aria-pressed") === "true";
    const setting = this.desk.setting();
    let found = 0;
    for (const { shelf, about, node } of this.strips.values()) {
      const isWanted = shelf !== "factors" || `${about.name} ${about.description ?? ""}`.toLowerCase().includes(words);
      const isUsed = isTouched(setting[shelf][about.name]) || node.contains(document.activeElement);
      const isShown = show(node, isWanted && (!onlyUsed || isUsed));
      found += Number(isShown && shelf === "factors");
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

const clamped = (value, { low, high }) => Math.min(Math.max(value, low), high);

/** A strength that a factor can reach; its card says how far that is. */
function within(about, strength) {
  const [low, high] = about?.range ?? [-FARTHEST.factors, FARTHEST.factors];
  return Math.min(Math.max(strength, low), high);
}
