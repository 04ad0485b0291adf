// The third view: a factor is trained from pasted texts, and one sees how far it is.

import { announce, byId, el, show } from "./dom.js";

const PAUSE = 400; // milliseconds between questions

/** The texts of a box: one a line, without blanks around them and without repeats. */
export function linesOf(text) {
  return [
    ...new Set(
      text
        .split("\n")
        .map((line) => line.trim())
        .filter((line) => line !== ""),
    ),
  ];
}

/** How far a training is, as a share of its stage; null where that is not known. */
export function shareOf({ state, done, total }) {
  if (state === "done") return 1;
  return total > 0 ? Math.min(done / total, 1) : null;
}

export class Training {
  constructor(desk) {
    this.desk = desk;
    for (const side of ["positive", "negative"]) {
      byId(side).addEventListener(
        "input",
        () => (byId(`${side}-count`).textContent = `${linesOf(byId(side).value).length} texts`),
      );
    }
    byId("training").addEventListener("submit", (event) => {
      event.preventDefault();
      this.train();
    });
  }

  async train() {
    const body = {
      name: byId("train-name").value.trim(),
      positive: linesOf(byId("positive").value),
      negative: linesOf(byId("negative").value),
    };
    const note = byId("train-note");
    note.className = "dim";
    byId("train").disabled = true;
    note.textContent = "sending";
    try {
      const { id } = await this.desk.server.ask("v1/factors/train", { body });
      note.textContent = "";
      this.follow(id, body.name);
    } catch (error) {
      note.className = "bad";
      note.textContent = error.message;
    } finally {
      byId("train").disabled = false;
    }
  }

  /** Shows a training until it ends; a factor that came of it can be put on the desk. */
  async follow(id, name) {
    const bar = el("progress", { max: "1", "aria-label": `Training of ${name}` });
    const stage = el("span", { class: "dim" }, "waiting");
    const item = el("li", {}, el("div", { class: "row" }, el("b", {}, name), el("span", { class: "gap" }), stage), bar);
    byId("trainings").prepend(item);
    try {
      for (;;) {
        const news = await this.desk.server.ask(`v1/factors/train/${encodeURIComponent(id)}`);
        const share = shareOf(news);
        if (share === null) bar.removeAttribute("value");
        else bar.value = share;
        stage.textContent = news.total > 0 ? `${news.stage}, ${news.done} of ${news.total}` : news.stage || news.state;
        if (news.state === "done") return await this.done(item, bar, stage, name, news.result);
        if (["failed", "cancelled"].includes(news.state))
          throw new Error(news.message || `the training was ${news.state}`);
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    } catch (error) {
      bar.remove();
      stage.className = "bad";
      stage.textContent = error.message;
      announce(`${name}: ${error.message}`);
    }
    return undefined;
  }

  async done(item, bar, stage, name, result) {
    bar.remove();
    await this.desk.reload();
    const auc = typeof result?.auc === "number" ? `, held-out AUC ${result.auc.toFixed(2)}` : "";
    stage.textContent = `version ${result?.version ?? "0.1.0"}${auc}`;
    announce(`${name} is trained`);
    item.append(
      el(
        "div",
        { class: "row" },
        el(
          "button",
          { class: "quiet", type: "button", onclick: () => this.desk.put(name, 0.4) },
          "Put it on the desk at +0.4",
        ),
      ),
    );
    show(item, true);
  }
}
