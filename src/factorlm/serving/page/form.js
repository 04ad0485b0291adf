// The form that texts must have: a formal language, and strings that end a text.

import { byId, show } from "./dom.js";
import { FORM, copyOf, linesOf, troubleOf } from "./setting.js";

const LABELS = {
  choice: "One text a line",
  regex: "Regular expression",
  json_schema: "JSON schema",
  grammar: "Grammar, in Lark's notation",
};
const EXAMPLES = {
  choice: "yes\nno\nit depends",
  regex: "[A-Z][a-z]+ is (good|bad)\\.",
  json_schema: '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}',
  grammar: 'start: "a " NOUN\nNOUN: "cat" | "dog"',
};

export class Form {
  constructor(desk) {
    this.desk = desk;
    byId("form-kind").addEventListener("change", (event) => this.set({ kind: event.target.value }));
    byId("form-content").addEventListener("input", (event) => this.set({ content: event.target.value }));
    byId("form-stop").addEventListener("change", (event) => this.set({ stop: linesOf(event.target.value) }));
  }

  set(change) {
    const setting = this.desk.setting();
    setting.form = { ...copyOf(FORM), ...setting.form, ...change };
    this.desk.changed();
  }

  update() {
    const form = this.desk.setting().form ?? FORM;
    const [kind, content, stop] = ["form-kind", "form-content", "form-stop"].map(byId);
    const trouble = troubleOf(form);
    kind.value = form.kind;
    if (content.value !== form.content) content.value = form.content;
    if (document.activeElement !== stop) stop.value = form.stop.join("\n");
    if (show(byId("form-box"), form.kind !== "free")) {
      byId("form-label").textContent = LABELS[form.kind];
      content.placeholder = EXAMPLES[form.kind];
    }
    content.setAttribute("aria-invalid", String(trouble !== ""));
    byId("form-trouble").textContent = trouble;
    show(byId("form-trouble"), trouble !== "");
    const said = kind.selectedOptions[0].textContent;
    byId("form-said").textContent = form.stop.length > 0 ? `${said}, stops at ${form.stop.join(" or ")}` : said;
  }
}
