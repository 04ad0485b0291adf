// Takes: what was written under one setting or two, each text with its colours, its legend and its thumbs.

import { total, totals } from "./contributions.js";
import { announce, byId, copy, el, icon, show } from "./dom.js";
import { feedbackOf } from "./feedback.js";
import { exponentOf, plain, short, signed } from "./numbers.js";
import { audible } from "./setting.js";
import { absorb, emptyResponse, endsWithEnd } from "./stream.js";
import { tokenSpan } from "./tokens.js";

const KEPT = 8; // takes that stay on the page
const PROMPT_SHOWN = 400; // characters of a long prompt, its end
let count = 0;

/** Begins a take: a column for each letter, with nothing in it yet. */
export class Take {
  /** `columns` has letter, setting and request of each; `words` is the prompt or the messages. */
  constructor(desk, detail, words, columns) {
    this.desk = desk;
    this.detail = detail;
    this.words = words;
    this.number = ++count;
    this.columns = columns.map((column) => this.column(column));
    this.node = el(
      "article",
      { class: columns.length > 1 ? "take two" : "take", "aria-label": `Take ${this.number}` },
      this.columns.map((column) => column.node),
    );
    const box = byId("takes");
    box.prepend(this.node);
    while (box.children.length > KEPT) box.lastElementChild.remove();
  }

  column({ letter, setting, request }) {
    const legend = el("ul", { class: "legend", "aria-label": "What was mixed" });
    const texts = el("div", { class: "texts" });
    const asked = this.words.kind === "chat" && el("p", { class: "asked" }, this.words.messages.at(-1).content);
    const note = el(
      "p",
      { class: "note", role: "status" },
      el("span", { class: "lamp", "data-state": "waiting" }),
      "waiting for the first token",
    );
    const recall = el(
      "button",
      {
        class: "quiet",
        type: "button",
        title: `Put this setting on ${letter} again`,
        onclick: () => this.desk.recall(letter, setting),
      },
      icon("recall"),
      "Recall",
    );
    const node = el(
      "section",
      { class: "column card", "aria-label": `Setting ${letter}` },
      el(
        "div",
        { class: "row column-head" },
        el("span", { class: "letter" }, letter),
        legend,
        el("span", { class: "gap" }),
        recall,
      ),
      asked || "",
      texts,
      note,
    );
    const response = emptyResponse(request.n);
    const column = {
      letter,
      setting,
      request,
      node,
      legend,
      texts,
      note,
      response,
      views: [],
      began: performance.now(),
      first: null,
    };
    column.views = response.choices.map((choice, index) => this.text(column, choice, index));
    texts.append(...column.views.map((view) => view.node));
    this.mark(column);
    return column;
  }

  /** The legend: what is heard, how much of it, and how many nats it pushed over all texts. */
  mark(column) {
    const heard = audible(column.setting);
    const sums = totals(column.response.choices.flatMap((choice) => choice.tokens));
    const items = Object.entries(heard).flatMap(([shelf, faders]) =>
      Object.entries(faders).map(([name, fader]) => ({ shelf, name, fader })),
    );
    const said = ({ shelf, name, fader }) => {
      const points = shelf === "factors" ? this.desk.about.factors.find((one) => one.name === name)?.points : undefined;
      const say = shelf === "memories" ? plain : signed;
      const amount = fader.unit === "exponent" ? "on" : say(fader.value, Number.isInteger(fader.value) ? 0 : 2);
      return [amount, points ? el("sup", {}, `^${short(exponentOf(points, fader.value))}`) : ""];
    };
    const nodes = items.map((item) =>
      el(
        "li",
        { "data-name": item.name, style: { "--c": this.desk.colours.of(item.name) } },
        el("i", { class: "dot" }),
        `${item.name} `,
        el("b", {}, ...said(item)),
        item.name in sums &&
          el(
            "span",
            { class: "dim number", title: "nats that it pushed the tokens, over all texts" },
            ` ${signed(sums[item.name], 1)}`,
          ),
      ),
    );
    if (column.setting.prior !== null)
      nodes.push(el("li", {}, el("i", { class: "dot tape-dot" }), `prior ${column.setting.prior.name}`));
    column.legend.replaceChildren(...(nodes.length > 0 ? nodes : [el("li", { class: "dim" }, "the base alone")]));
  }

  text(column, choice, index) {
    const id = `t${this.number}${column.letter}${index}`;
    const body = el("div", {
      class: "text prose",
      role: "listbox",
      tabindex: "0",
      "aria-label": `Text ${index + 1} of setting ${column.letter}; arrow keys walk over its tokens`,
      "aria-orientation": "horizontal",
    });
    body.tokens = [];
    this.detail.attach(body, () => choice.tokens);
    const prompt = this.words.kind === "text" ? this.words.prompt : "";
    if (prompt !== "") {
      const tail = prompt.length > PROMPT_SHOWN ? `…${prompt.slice(-PROMPT_SHOWN)}` : prompt;
      body.append(el("span", { class: "said-before" }, tail));
    }
    const caret = el("span", { class: "caret", "aria-hidden": "true" });
    body.append(caret);
    const tools = el("div", { class: "tools", hidden: true });
    const node = el("div", { class: "one" }, body, tools);
    return { id, body, caret, tools, node, choice, index, plain: null };
  }

  /** Takes in a chunk of one column. */
  add(column, chunk) {
    column.first ??= performance.now() - column.began;
    for (const index of absorb(column.response, chunk)) {
      const view = column.views[index];
      const { tokens, text } = view.choice;
      while (view.body.tokens.length < tokens.length) {
        const at = view.body.tokens.length;
        const span = tokenSpan(tokens[at], `${view.id}-${at}`, this.desk);
        span.dataset.index = at;
        view.body.tokens.push(span);
        view.caret.before(span);
      }
      if (tokens.length === 0 && text !== "") {
        if (view.plain === null) view.caret.before((view.plain = el("span", {})));
        view.plain.textContent = text;
      } else if (view.plain !== null) view.plain.remove();
    }
    const drawn = column.response.choices.reduce((sum, choice) => sum + choice.tokens.length, 0);
    column.note.replaceChildren(
      el("span", { class: "lamp", "data-state": "busy" }),
      drawn > 0 ? `${drawn} tokens` : "writing",
    );
    if (drawn % 8 === 0) this.mark(column);
  }

  /** Ends a column, whole or broken off. */
  end(column, trouble = null, retry = null) {
    this.mark(column);
    for (const view of column.views) {
      view.caret.remove();
      const { choice } = view;
      if (endsWithEnd(choice)) {
        const last = view.body.tokens.at(-1);
        last.replaceChildren(el("span", { class: "ink" }, "∎"));
        last.classList.add("the-end");
        last.title = "the end of the text";
      }
      if (choice.text !== "" || choice.tokens.length > 0) {
        view.tools.replaceChildren(...this.tools(column, view));
        show(view.tools, true);
      } else if (trouble === null) view.body.append(el("span", { class: "dim" }, "(an empty text)"));
    }
    this.desk.tracks.playing(column.response.choices.map((choice) => choice.about.component ?? ""));
    if (trouble !== null) {
      const again = retry && el("button", { class: "quiet", type: "button", onclick: retry }, "Try again");
      column.note.classList.add("bad");
      column.note.replaceChildren(trouble, again || "");
    } else column.note.replaceChildren(this.summary(column));
    const texts = column.response.choices.map(
      (choice, i) => `Text ${i + 1} of setting ${column.letter}: ${choice.text}`,
    );
    announce(trouble ?? texts.join(". "));
  }

  summary(column) {
    const tokens = column.response.choices.flatMap((choice) => choice.tokens);
    const seconds = (performance.now() - column.began) / 1000;
    const parts = [
      `${tokens.length || column.response.usage?.completion_tokens || 0} tokens in ${seconds.toFixed(1)} s`,
    ];
    const [composed, base] = [total(tokens, "log_prob"), total(tokens, "base_log_prob")];
    if (composed !== null) parts.push(`${plain(composed, 1)} nats`);
    if (base !== null && composed !== null && base !== composed) parts.push(`${plain(base, 1)} under the base`);
    if (column.response.choices.some((choice) => choice.finishReason === "length")) parts.push("cut at the last token");
    return parts.join(" · ");
  }

  tools(column, view) {
    const { choice } = view;
    const said = el("span", { class: "dim", role: "status" });
    const box = el("div", { class: "editing", hidden: true });
    const prompt = this.words.kind === "text" ? this.words.prompt : this.words.messages.at(-1).content;
    const { give, state } = feedbackOf(this.desk, {
      response: column.response,
      index: view.index,
      prompt,
      request: column.request,
      choice,
      said,
    });
    const thumb = (name, label) =>
      el(
        "button",
        {
          class: "square",
          type: "button",
          "aria-label": label,
          title: label,
          "aria-pressed": "false",
          "data-thumb": name,
          onclick: async () => {
            if (!(await give({ thumb: name }))) return;
            for (const other of view.tools.querySelectorAll("[data-thumb]"))
              other.setAttribute("aria-pressed", String(other.dataset.thumb === name));
          },
        },
        icon(name),
      );
    const tool = (name, label, act) =>
      el("button", { class: "square", type: "button", "aria-label": label, title: label, onclick: act }, icon(name));
    const nodes = [
      thumb("up", "Good text"),
      thumb("down", "Bad text"),
      tool("edit", "Write how it should be", () => edit(box, state, choice, give)),
      tool("copy", "Copy the text", () =>
        copy(prompt && this.words.kind === "text" ? prompt + choice.text : choice.text),
      ),
    ];
    if (this.words.kind === "chat")
      nodes.push(tool("reply", "Go on with this answer", () => this.desk.goOn(this.words.messages, choice.text)));
    if (choice.about.component) nodes.push(el("span", { class: "dim" }, `by ${choice.about.component}`));
    if (choice.about.particles) nodes.push(el("span", { class: "dim" }, particles(choice.about.particles)));
    return [...nodes, said, box];
  }
}

function edit(box, state, choice, give) {
  if (!box.hidden) return show(box, false);
  const area = el("textarea", {
    class: "prose",
    rows: Math.min(10, 2 + Math.ceil(choice.text.length / 60)),
    "aria-label": "The text as it should be",
  });
  area.value = state.edit ?? choice.text;
  const comment = el("input", {
    type: "text",
    "aria-label": "Comment",
    placeholder: "Comment (optional)",
    maxlength: "1000",
  });
  comment.value = state.comment ?? "";
  const save = el(
    "button",
    {
      class: "primary",
      type: "button",
      onclick: async () => {
        if (await give({ edit: area.value, comment: comment.value })) show(box, false);
      },
    },
    "Send",
  );
  box.replaceChildren(
    area,
    el(
      "div",
      { class: "row" },
      comment,
      save,
      el("button", { class: "quiet", type: "button", onclick: () => show(box, false) }, "Cancel"),
    ),
  );
  show(box, true);
  area.focus();
  return true;
}

function particles(about) {
  const effective = about.effective_sizes?.at(-1) ?? about.effective;
  const number = about.number ?? about.weights?.length ?? about.texts?.length;
  return [number && `${number} particles`, effective && `${Number(effective).toFixed(1)} effective`]
    .filter(Boolean)
    .join(", ");
}
