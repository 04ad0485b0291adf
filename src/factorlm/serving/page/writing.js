// The prompt, and writing: one request for each setting that is wanted, streamed into a take.

import { byId, el, show } from "./dom.js";
import { copyOf, requestOf } from "./setting.js";
import { Take } from "./takes.js";

export class Writing {
  constructor(desk, detail) {
    this.desk = desk;
    this.detail = detail;
    this.stopping = null;
    const form = byId("writing");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.write();
    });
    byId("pane-write").addEventListener("click", () => (this.stopping ? this.stopping.abort() : this.write()));
    byId("stop").addEventListener("click", () => this.stopping?.abort());
    addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && document.body.dataset.view === "desk") {
        event.preventDefault();
        this.write();
      }
    });
    for (const area of form.querySelectorAll("textarea")) {
      area.addEventListener("input", () => {
        grow(area);
        desk.words[area.id] = area.value;
        desk.changed();
      });
    }
    for (const name of ["max_tokens", "n", "seed"]) {
      byId(name).addEventListener("change", (event) => {
        const most = {
          n: desk.about.limits.n,
          max_tokens: desk.about.limits.max_tokens,
          seed: Number.MAX_SAFE_INTEGER,
        }[name];
        const value = Math.round(Number(event.target.value));
        desk.common[name] = Math.min(Math.max(Number.isFinite(value) ? value : 0, name === "seed" ? 0 : 1), most);
        desk.changed();
      });
    }
    byId("dice").addEventListener("click", () => {
      desk.common.seed = crypto.getRandomValues(new Uint32Array(1))[0] % 100000;
      desk.changed();
    });
  }

  update() {
    const { words, common } = this.desk;
    const isChat = words.kind === "chat";
    for (const name of ["max_tokens", "n", "seed"]) byId(name).value = common[name];
    for (const name of ["prompt", "system"]) {
      if (byId(name).value !== words[name]) byId(name).value = words[name];
      grow(byId(name));
    }
    show(byId("system-box"), isChat);
    byId("prompt-label").textContent = isChat ? "Message, to be answered" : "Prompt, a text to be continued";
    byId("prompt").placeholder = isChat ? "What should I see in Lisbon?" : "The food at the station";
    show(byId("turns"), isChat && words.turns.length > 0);
    byId("turns").replaceChildren(
      ...words.turns.map((turn) =>
        el(
          "li",
          { class: `turn ${turn.role}` },
          el("b", {}, turn.role === "user" ? "You" : "Model"),
          ` ${turn.content}`,
        ),
      ),
      el(
        "li",
        {},
        el(
          "button",
          {
            class: "quiet",
            type: "button",
            onclick: () => {
              words.turns = [];
              this.desk.changed();
            },
          },
          "Begin anew",
        ),
      ),
    );
  }

  /** The words as a request says them; null, and a hint, where there are none. */
  said() {
    const { words, about } = this.desk;
    const text = words.prompt !== "" ? words.prompt : byId("prompt").placeholder;
    if (words.kind === "text") return { kind: "text", model: about.model.id, prompt: text };
    const system = words.system.trim() === "" ? [] : [{ role: "system", content: words.system }];
    return {
      kind: "chat",
      model: about.model.id,
      messages: [...system, ...words.turns, { role: "user", content: text }],
    };
  }

  async write() {
    if (this.stopping) return;
    const { desk } = this;
    if (byId("prompt").value === "") {
      byId("prompt").value = desk.words.prompt = byId("prompt").placeholder;
      desk.changed();
    }
    const words = this.said();
    const letters = desk.isCompared ? ["A", "B"] : [desk.letter];
    const columns = letters.map((letter) => {
      const setting = copyOf(desk.settings[letter]);
      return { letter, setting, request: requestOf(setting, desk.common, words) };
    });
    show(byId("empty"), false);
    desk.showPane("words");
    this.busy(new AbortController());
    const take = new Take(desk, this.detail, words, columns);
    take.node.scrollIntoView({ block: "nearest" });
    await Promise.all(take.columns.map((column) => this.fill(take, column, words)));
    take.node.dataset.state = "done";
    this.busy(null);
  }

  async fill(take, column, words) {
    const path = words.kind === "chat" ? "v1/chat/completions" : "v1/completions";
    const body = { ...column.request, stream: true, explain: true };
    try {
      for await (const chunk of this.desk.server.stream(path, { body, signal: this.stopping.signal }))
        take.add(column, chunk);
      take.end(column);
    } catch (error) {
      if (error.name === "AbortError") return take.end(column, "stopped");
      const wait = error.retryAfter ? ` Try again in ${Math.ceil(error.retryAfter)} s.` : "";
      const again = error.status === 429 || error.status === 0 ? () => this.write() : null;
      take.end(column, `${error.message}${wait} `, again);
    }
    return undefined;
  }

  busy(stopping) {
    this.stopping = stopping;
    show(byId("write"), stopping === null);
    show(byId("stop"), stopping !== null);
    byId("pane-write").textContent = stopping === null ? "Write" : "Stop";
    this.desk.lamp(stopping === null ? "ready" : "busy");
  }
}

/** As high as its text, up to what the style sheet allows. */
function grow(area) {
  area.style.height = "auto";
  if (area.scrollHeight > 0) area.style.height = `${area.scrollHeight + 2}px`;
}
