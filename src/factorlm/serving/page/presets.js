// A setting leaves the page as a program or a preset, and comes back from a preset.

import { byId, copy, download, segmented } from "./dom.js";
import { asCurl, asFactorlm, asOpenai } from "./exporting.js";
import { presetOf, requestOf, settingOf } from "./setting.js";

const FILES = {
  openai: ["desk.py", "text/x-python"],
  factorlm: ["desk.py", "text/x-python"],
  curl: ["desk.sh", "text/x-sh"],
  preset: ["preset.json", "application/json"],
};
const LARGEST = 1 << 20; // bytes of a preset

export class Presets {
  /** `said()` gives the words of a request. */
  constructor(desk, said) {
    this.desk = desk;
    this.said = said;
    this.language = "openai";
    this.press = segmented(byId("language"), (language) => {
      this.language = language;
      this.render();
    });
    byId("export").addEventListener("click", () => {
      this.render();
      byId("exporting").showModal();
    });
    byId("copy-program").addEventListener("click", async (event) => {
      const button = event.currentTarget;
      await copy(byId("program").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    byId("save-program").addEventListener("click", () =>
      download(FILES[this.language][0], byId("program").textContent, FILES[this.language][1]),
    );
    byId("import").addEventListener("click", () => byId("preset-file").click());
    byId("preset-file").addEventListener("change", async (event) => {
      const [file] = event.target.files;
      if (file) await this.read(file);
      event.target.value = "";
    });
  }

  render() {
    const { desk } = this;
    const setting = desk.setting();
    const request = requestOf(setting, desk.common, this.said());
    const address = new URL(".", location.href).href.replace(/\/$/, "");
    byId("export-title").textContent = `Export setting ${desk.letter}`;
    byId("program").textContent = {
      openai: () => asOpenai(request, address),
      factorlm: () => asFactorlm(request),
      curl: () => asCurl(request, address, desk.server.key !== ""),
      preset: () => `${JSON.stringify(presetOf(setting, desk.common, desk.about.model.id), null, 2)}\n`,
    }[this.language]();
  }

  async read(file) {
    const { desk } = this;
    try {
      if (file.size > LARGEST) throw new Error(`${file.name} is too large for a preset`);
      const preset = parsed(await file.text(), file.name);
      const known = Object.fromEntries(
        ["factors", "guides", "memories", "priors"].map((shelf) => [shelf, desk.about[shelf].map((one) => one.name)]),
      );
      const check = (shelf, name, value, unit) => desk.console.checked(shelf, name, value, unit, preset.memory_mode);
      const { setting, common, notes } = settingOf(preset, known, check);
      desk.take(setting, common);
      desk.tell(notes.length > 0 ? `${notes.join("; ")}.` : "");
    } catch (error) {
      desk.tell(error.message);
    }
  }
}

function parsed(text, name) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${name} is not JSON; export a preset and compare`);
  }
}
