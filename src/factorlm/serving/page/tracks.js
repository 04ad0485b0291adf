// Components of a prior as the tracks of a tape: how wide each is, what is on it, and which of them wrote.

import { byId, el, show } from "./dom.js";
import { percent } from "./numbers.js";

export class Tracks {
  constructor(desk) {
    this.desk = desk;
    const [prior, mode] = [byId("prior"), byId("prior-mode")];
    const changed = () => {
      desk.setting().prior = prior.value === "" ? null : { name: prior.value, mode: mode.value };
      desk.changed();
    };
    prior.addEventListener("change", changed);
    mode.addEventListener("change", changed);
  }

  build() {
    const { priors } = this.desk.about;
    show(byId("shelf-priors"), priors.length > 0);
    byId("prior").replaceChildren(
      el("option", { value: "" }, "none"),
      ...priors.map((prior) => el("option", { value: prior.name }, prior.name)),
    );
    this.update();
  }

  update() {
    const chosen = this.desk.setting().prior;
    byId("prior").value = chosen?.name ?? "";
    byId("prior-mode").value = chosen?.mode ?? "response";
    show(byId("prior-mode"), chosen !== null);
    const about = this.desk.about.priors.find((prior) => prior.name === chosen?.name);
    if (about !== this.shown) byId("tracks").replaceChildren(...(about?.components ?? []).map(track));
    this.shown = about;
  }

  /** Lights the tracks that wrote texts, given the component of each text in order. */
  playing(components) {
    for (const node of byId("tracks").children) {
      const texts = components.flatMap((name, index) => (name === node.dataset.name ? [index + 1] : []));
      node.dataset.playing = String(texts.length > 0);
      const wrote = node.querySelector(".wrote");
      wrote.textContent = components.length === 1 ? "wrote this" : `wrote text ${texts.join(", ")}`;
      wrote.hidden = texts.length === 0;
    }
  }
}

function track(component) {
  const words =
    component.tokens.length > 0
      ? component.tokens.map((token) => token.trim()).join(" · ")
      : (component.typical[0] ?? "");
  return el(
    "li",
    {
      class: "track",
      "data-name": component.name,
      "data-playing": "false",
      style: { "--weight": component.weight },
    },
    el(
      "span",
      { class: "track-head" },
      el("b", {}, component.name),
      el("span", { class: "wrote", hidden: true }),
      el("span", { class: "number" }, percent(component.weight)),
    ),
    el("span", { class: "tape", "aria-hidden": "true" }),
    words !== "" && el("span", { class: "track-words", title: component.typical.join("\n") }, words),
  );
}
