// The second view: what a factor does at each strength, and how factors depend on each other.

import { correlationPicture, dosePicture } from "./charts.js";
import { byId, el } from "./dom.js";
import { percent, signed } from "./numbers.js";

const MOST = 8; // factors in a picture of correlations
const COMPARED = ["head", "lexicon"]; // kinds of factors that the server compares

export class Pictures {
  constructor(desk) {
    this.desk = desk;
    this.responses = new Map();
    this.compared = null;
    byId("dose-factor").addEventListener("change", () => this.dose());
    byId("add-compared").addEventListener("change", (event) => {
      if (event.target.value === "") return;
      this.compared.push(event.target.value);
      this.correlations();
    });
  }

  /** Shows the view: a factor in use where there is one, and those in use compared. */
  open() {
    const { factors } = this.desk.about;
    const used = Object.entries(this.desk.setting().factors)
      .filter(([, fader]) => fader.value !== 0)
      .map(([name]) => name);
    const measured = factors.filter((factor) => factor.has_response);
    const select = byId("dose-factor");
    const before = select.value;
    select.replaceChildren(...measured.map((factor) => el("option", {}, factor.name)));
    select.value = measured.some((factor) => factor.name === before)
      ? before
      : (used.find((name) => measured.some((f) => f.name === name)) ?? measured[0]?.name ?? "");
    if (measured.length === 0)
      byId("dose").replaceChildren(
        el("p", { class: "none" }, "No factor here has a measured response; factorlm factor measure makes one."),
      );
    else this.dose();
    const heads = this.heads();
    this.compared ??= used.filter((name) => heads.includes(name)).slice(0, MOST);
    if (this.compared.length < 2)
      this.compared = [
        ...new Set([
          ...this.compared,
          ...["positive", "toxic", "polite", "romantic", ...heads].filter((n) => heads.includes(n)),
        ]),
      ].slice(0, 4);
    this.correlations();
  }

  heads() {
    return this.desk.about.factors
      .filter((factor) => COMPARED.includes(factor.kind) && factor.unit === "strength")
      .map((factor) => factor.name);
  }

  async dose() {
    const name = byId("dose-factor").value;
    const box = byId("dose");
    try {
      const response = await this.response(name);
      if (byId("dose-factor").value !== name) return;
      const strength = this.desk.setting().factors[name]?.value ?? 0;
      box.replaceChildren(...doseAndTable(response, this.desk.colours.of(name), strength));
      this.desk.tidyColours();
    } catch (error) {
      box.replaceChildren(el("p", { class: "note bad" }, error.message));
    }
  }

  /** The dose and response of a factor, asked for once. */
  async response(name) {
    if (!this.responses.has(name)) {
      const { response } = await this.desk.server.ask(`v1/factors/${encodeURIComponent(name)}/response`);
      if (response === null) throw new Error(`${name} has no measured response`);
      this.responses.set(name, response);
    }
    return this.responses.get(name);
  }

  async correlations() {
    const names = [...this.compared];
    const remove = (name) => () => {
      this.compared = names.filter((other) => other !== name);
      this.correlations();
    };
    byId("compared").replaceChildren(
      ...names.map((name) =>
        el(
          "li",
          {},
          name,
          el("button", { type: "button", "aria-label": `Leave out ${name}`, onclick: remove(name) }, "×"),
        ),
      ),
    );
    const rest = this.heads().filter((name) => !names.includes(name));
    byId("add-compared").replaceChildren(
      el("option", { value: "" }, "…"),
      ...rest.map((name) => el("option", {}, name)),
    );
    byId("add-compared").disabled = names.length >= MOST || rest.length === 0;
    const box = byId("correlations");
    if (names.length < 2) return box.replaceChildren(el("p", { class: "none" }, "Take two factors or more."));
    box.replaceChildren(el("p", { class: "note" }, el("span", { class: "lamp", "data-state": "busy" }), "measuring"));
    try {
      const found = await this.desk.server.ask(
        `v1/factors/correlations?names=${names.map(encodeURIComponent).join(",")}`,
      );
      if (this.compared.join() !== names.join()) return undefined;
      const number = `Together they are worth ${found.effective_number.toFixed(1)} independent factors.`;
      const note = `Of what they add to the next token, under the base. ${number}`;
      const warnings = found.warnings.map((warning) => el("p", { class: "note" }, warning));
      box.replaceChildren(
        correlationPicture(found.names, found.correlation),
        el("p", { class: "note" }, note),
        ...warnings,
      );
    } catch (error) {
      box.replaceChildren(el("p", { class: "note bad" }, error.message));
    }
    return undefined;
  }
}

/** The picture, a line on the judge, and the numbers for those who do not see pictures. */
export function doseAndTable(response, colour, strength) {
  const rows = response.doses.map((dose) =>
    el(
      "tr",
      {},
      el("td", {}, signed(dose.strength)),
      el("td", {}, `${percent(dose.rate)} ± ${(196 * dose.rate_error).toFixed(0)}`),
      el("td", {}, `×${dose.perplexity_ratio.toFixed(2)}`),
      el("td", {}, dose.distinct.toFixed(2)),
    ),
  );
  const heads = ["strength", "texts", "perplexity", "distinct"].map((head) => el("th", { scope: "col" }, head));
  return [
    dosePicture(response, colour, strength),
    el(
      "p",
      { class: "note" },
      `${response.num_texts} texts of ${response.num_tokens} tokens at each strength; judge: ${response.judge}, right in ${percent(response.accuracy)} of held-out texts. Bars are 95 % intervals.`,
    ),
    el(
      "details",
      {},
      el("summary", {}, "Numbers"),
      el("table", { class: "numbers" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)),
    ),
  ];
}
