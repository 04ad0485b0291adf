// A text token by token, and the card of one token: what moved it, and what could have stood in its place.

import { strongest } from "./colours.js";
import { alternatives, waterfall } from "./contributions.js";
import { byId, el, icon, show } from "./dom.js";
import { percent, plain, shown, signed } from "./numbers.js";
import { pieceOf, textOf } from "./stream.js";

const STAY = 160; // milliseconds in which a pointer can go from a token to its card

/** A span for a token, in the colour of the factor that pushed it most. */
export function tokenSpan(token, id, desk) {
  // The blank before a word stays without colour: it would hang over the end of a line.
  const [, blank, ink] = /^( ?)([^]*)$/.exec(textOf(token));
  const span = el(
    "span",
    { class: "token", id, role: "option", "aria-selected": "false" },
    ink === "" ? "" : blank,
    el("span", { class: "ink" }, ink === "" ? blank : ink),
  );
  const push = strongest(token.factors, desk.about.visible, desk.about.full);
  if (push !== null) {
    span.style.setProperty("--c", desk.colours.of(push.name));
    span.style.setProperty("--share", push.share.toFixed(3));
    span.classList.add(push.isAgainst ? "against" : "pushed");
  }
  return span;
}

/** What a token is called by those who listen. */
export function spoken(token) {
  const pushes = Object.entries(token.factors ?? {}).map(([name, nats]) => `${name} ${signed(nats)}`);
  const base = typeof token.base_log_prob === "number" ? [`base ${plain(token.base_log_prob)}`] : [];
  const normaliser =
    typeof token.normalizer === "number" && pushes.length > 0 ? [`normaliser ${signed(-token.normalizer)}`] : [];
  return `${shown(pieceOf(token))}: log probability ${plain(token.log_prob)}. ${[...base, ...pushes, ...normaliser].join(", ")}`;
}

/** The card of tokens; there is one, and it goes where it is asked for. */
export class Detail {
  constructor(desk) {
    this.desk = desk;
    this.node = byId("detail");
    this.isPinned = false;
    this.span = null;
    this.node.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.node.addEventListener("pointerleave", () => this.leave());
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    document.addEventListener("pointerdown", (event) => {
      if (!this.node.contains(event.target) && !event.target.closest?.(".token")) this.close();
    });
    addEventListener("resize", () => this.close());
  }

  /** Lets the tokens of a text be pointed at, and walked over by keyboard. */
  attach(body, tokens) {
    const indexOf = (target) => {
      const span = target.closest?.(".token");
      return span ? Number(span.dataset.index) : -1;
    };
    body.addEventListener("pointerover", (event) => {
      const index = indexOf(event.target);
      if (event.pointerType !== "mouse" || index < 0 || this.isPinned) return;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.open(body, index, tokens()[index]), this.span === null ? 60 : 0);
    });
    body.addEventListener("pointerout", () => this.leave());
    body.addEventListener("click", (event) => {
      const index = indexOf(event.target);
      if (index < 0) return;
      const same = this.isPinned && this.span === body.tokens[index];
      this.isPinned = !same;
      if (same) this.close();
      else this.open(body, index, tokens()[index]);
    });
    body.addEventListener("keydown", (event) => {
      const last = tokens().length - 1;
      const at = body.active ?? -1;
      const to = {
        ArrowRight: at + 1,
        ArrowLeft: at - 1,
        ArrowDown: at + 10,
        ArrowUp: at - 10,
        Home: 0,
        End: last,
      }[event.key];
      if (to === undefined || last < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.isPinned = true;
      const index = Math.min(Math.max(to, 0), last);
      this.open(body, index, tokens()[index]);
    });
    body.addEventListener("blur", () =>
      setTimeout(() => !this.node.contains(document.activeElement) && this.close(), 0),
    );
  }

  leave() {
    if (this.isPinned) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.close(), STAY);
  }

  open(body, index, token) {
    if (token === undefined) return;
    clearTimeout(this.timer); // a finger has left the token before it clicks
    this.unmark();
    this.span = body.tokens[index];
    this.span.setAttribute("aria-selected", "true");
    this.span.setAttribute("aria-label", spoken(token));
    body.setAttribute("aria-activedescendant", this.span.id);
    body.active = index;
    this.node.replaceChildren(...this.content(token));
    show(this.node, true);
    this.place();
  }

  close() {
    clearTimeout(this.timer);
    this.isPinned = false;
    this.unmark();
    this.span = null;
    show(this.node, false);
  }

  unmark() {
    this.span?.setAttribute("aria-selected", "false");
    this.span?.parentElement?.removeAttribute("aria-activedescendant");
  }

  place() {
    this.node.style.removeProperty("left");
    this.node.style.removeProperty("top");
    if (getComputedStyle(this.node).position === "fixed") return; // at the bottom of a small window
    const [at] = this.span.lastElementChild.getClientRects();
    const box = this.node.getBoundingClientRect();
    const left = Math.min(Math.max(at.left - 24, 12), innerWidth - box.width - 12);
    const isBelow = at.bottom + 8 + box.height < innerHeight || at.top - 8 - box.height < 0;
    this.node.style.left = `${left + scrollX}px`;
    this.node.style.top = `${(isBelow ? at.bottom + 8 : at.top - 8 - box.height) + scrollY}px`;
  }

  content(token) {
    const bars = waterfall(token);
    const columns = alternatives(token);
    return [
      el(
        "div",
        { class: "detail-head" },
        el("code", {}, shown(pieceOf(token))),
        el("span", { class: "dim" }, `${plain(token.log_prob)} nats, ${percent(Math.exp(token.log_prob))}`),
        el(
          "button",
          { class: "square", type: "button", "aria-label": "Close", onclick: () => this.close() },
          icon("close"),
        ),
      ),
      bars.length > 0
        ? el(
            "div",
            { class: "waterfall" },
            bars.map((bar) => this.bar(bar)),
          )
        : el("p", { class: "dim" }, "This way of drawing tells no pushes."),
      columns.length > 0 &&
        el(
          "div",
          { class: "columns" },
          columns.map((column) => this.column(column, pieceOf(token))),
        ),
    ].filter(Boolean);
  }

  bar({ kind, name, nats, left, right }) {
    const colour = kind === "push" ? { "--c": this.desk.colours.of(name) } : {};
    const sign = kind === "push" || kind === "normaliser" ? signed(nats) : plain(nats);
    return el(
      "div",
      { class: `step ${kind}`, style: colour },
      el("span", { class: "step-name" }, name),
      el(
        "span",
        {
          class: "step-bar",
          "aria-hidden": "true",
          style: { "--left": left.toFixed(4), "--right": right.toFixed(4) },
        },
        el("i"),
      ),
      el("span", { class: "number" }, sign),
    );
  }

  column({ title, name, rows }, drawn) {
    const head = name === null ? title : [`${title} `, el("b", { style: { "--c": this.desk.colours.of(name) } }, name)];
    const largest = Math.max(...rows.map((row) => row.prob), 1e-9);
    return el(
      "table",
      {},
      el("caption", {}, head),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {
              class: row.text === drawn ? "drawn" : null,
              style: { "--p": (row.prob / largest).toFixed(3) },
            },
            el("td", {}, shown(row.text)),
            el("td", { class: "number" }, percent(row.prob)),
          ),
        ),
      ),
    );
  }
}
