// A setting: where every fader stands, the prior and the sampler. Plain data; what a request says is made of it.

export const SHELVES = ["factors", "guides", "memories"];
export const COMMON = { max_tokens: 64, seed: 0, n: 1 };
export const SAMPLER = {
  kind: "local",
  temperature: 1,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  typical_p: 1,
  particles: 16,
  resampling: "stratified",
  ess: 0.5,
  limit: "end",
};
export const FORM = { kind: "free", content: "", stop: [] };
const LANGUAGES = ["choice", "regex", "json_schema", "grammar"];
const OPENAI = ["temperature", "top_p"]; // fields of the sampler that stand outside of it in a request
const POPULATION = ["particles", "resampling", "ess", "limit"];
const FORMAT = "preset/1";

export const copyOf = (value) => JSON.parse(JSON.stringify(value));

export function emptySetting() {
  return {
    factors: {},
    guides: {},
    memories: {},
    memoryMode: "interpolate",
    prior: null,
    sampler: { ...SAMPLER },
    form: copyOf(FORM),
  };
}

/** A fader of a setting, made if it is not there; `unit` is "strength", "exponent" or "weight". */
export function faderOf(setting, shelf, name, unit = "strength") {
  return (setting[shelf][name] ??= { value: 0, unit, mute: false, solo: false });
}

const isMoved = (fader) => fader.value !== 0;

/** Whether a fader is anything but untouched. */
export const isTouched = (fader) => fader !== undefined && (isMoved(fader) || fader.mute || fader.solo);

/** Whether any fader is on solo, so that all others are silent. */
export function anySolo(setting) {
  return SHELVES.some((shelf) => Object.values(setting[shelf]).some((fader) => fader.solo && !fader.mute));
}

/** The faders that are heard, by shelf: moved, not muted, and on solo where anything is. */
export function audible(setting) {
  const solo = anySolo(setting);
  const heard = (fader) => isMoved(fader) && !fader.mute && (!solo || fader.solo);
  return Object.fromEntries(
    SHELVES.map((shelf) => [shelf, Object.fromEntries(Object.entries(setting[shelf]).filter(([, f]) => heard(f)))]),
  );
}

const isEmpty = (object) => Object.keys(object).length === 0;
const mapped = (object, change) => Object.fromEntries(Object.entries(object).map(([k, v]) => [k, change(v)]));

/** Lines that say something. */
export const linesOf = (text) => text.split("\n").filter((line) => line.trim() !== "");

/** What a form is not fit to be sent for, in a line; empty if it is. */
export function troubleOf(form) {
  if (form.kind !== "json_schema" || form.content.trim() === "") return "";
  try {
    const schema = JSON.parse(form.content);
    return schema !== null && typeof schema === "object" && !Array.isArray(schema) ? "" : "A schema is an object { … }.";
  } catch (error) {
    return `Not JSON: ${error.message}`;
  }
}

/** The formal language that texts must be of, and strings that end them, as a request says them. */
export function formOf(form) {
  const body = form.stop.length > 0 ? { stop: [...form.stop] } : {};
  if (form.kind === "free" || form.content.trim() === "" || troubleOf(form) !== "") return body;
  if (form.kind === "choice") return { ...body, choice: linesOf(form.content) };
  if (form.kind !== "json_schema") return { ...body, [form.kind]: form.content };
  const json_schema = { name: "form", schema: JSON.parse(form.content) };
  return { ...body, response_format: { type: "json_schema", json_schema } };
}

/** A form read back from the body of a request. */
function formIn(body) {
  const schema = body.response_format?.json_schema?.schema;
  const said = { ...body, json_schema: schema };
  const kind = LANGUAGES.find((name) => said[name] !== undefined && said[name] !== null) ?? "free";
  const content = { free: () => "", choice: (lines) => lines.join("\n"), json_schema: (s) => JSON.stringify(s, null, 2) };
  const stop = (typeof body.stop === "string" ? [body.stop] : (body.stop ?? [])).map(String);
  return { kind, content: String((content[kind] ?? ((text) => text))(said[kind])), stop };
}

/** The part of a request's body that a setting says; what is at its default is left out. */
export function bodyOf(setting) {
  const heard = audible(setting);
  const body = {};
  const dose = (fader) => (fader.unit === "exponent" ? { exponent: fader.value } : fader.value);
  if (!isEmpty(heard.factors)) body.factors = mapped(heard.factors, dose);
  if (!isEmpty(heard.guides)) body.guides = mapped(heard.guides, (fader) => fader.value);
  if (!isEmpty(heard.memories)) {
    body.memory = mapped(heard.memories, (fader) => fader.value);
    if (setting.memoryMode !== "interpolate") body.memory_mode = setting.memoryMode;
  }
  if (setting.prior !== null) body.prior = { ...setting.prior };
  const changed = Object.entries(setting.sampler).filter(([name, value]) => value !== SAMPLER[name]);
  for (const [name, value] of changed.filter(([name]) => OPENAI.includes(name))) body[name] = value;
  const needed = ([name]) => !OPENAI.includes(name) && (setting.sampler.kind !== "local" || !POPULATION.includes(name));
  const sampler = Object.fromEntries(changed.filter(needed));
  if (!isEmpty(sampler)) body.sampler = { kind: setting.sampler.kind, ...sampler };
  return { ...body, ...formOf(setting.form ?? FORM) };
}

/** A whole request: what is common to both settings, the setting, and the words. */
export function requestOf(setting, common, words) {
  const said = words.kind === "chat" ? { messages: words.messages } : { prompt: words.prompt };
  return { model: words.model, ...said, ...common, ...bodyOf(setting) };
}

/** A preset: the body of a request without its words, and the faders that are silent now. */
export function presetOf(setting, common, model) {
  const heard = audible(setting);
  const silent = {};
  for (const shelf of SHELVES) {
    const rest = Object.entries(setting[shelf]).filter(
      ([name, f]) => isTouched(f) && (!(name in heard[shelf]) || f.solo),
    );
    if (rest.length > 0) silent[shelf] = Object.fromEntries(rest);
  }
  const preset = { factorlm: FORMAT, model, ...common, ...bodyOf(setting) };
  return isEmpty(silent) ? preset : { ...preset, faders: silent };
}

/**
 * A preset read back: the setting, what is common, and notes on what could not be used.
 *
 * `known` names what the server has, by shelf, and its priors; `check` turns the number of a fader into one that the
 * desk can hold, and its unit.
 */
export function settingOf(preset, known, check = (_shelf, _name, value, unit) => ({ value, unit })) {
  if (preset === null || typeof preset !== "object" || preset.factorlm !== FORMAT) {
    throw new Error(`a preset has "factorlm": "${FORMAT}", this file has not; export one and compare`);
  }
  const setting = emptySetting();
  const common = { ...COMMON };
  const notes = [];
  const put = (shelf, name, value, unit, more = {}) => {
    if (typeof value !== "number" || !Number.isFinite(value))
      throw new Error(`${shelf}.${name} is a number, got ${JSON.stringify(value)}`);
    const isWords = shelf === "guides" && name.includes(":");
    if (!known[shelf].includes(name) && !isWords) notes.push(`${name} is not on this server and was left out`);
    else setting[shelf][name] = { mute: false, solo: false, ...more, ...check(shelf, name, value, unit) };
  };
  const dosed = (dose) =>
    typeof dose?.exponent === "number" ? [dose.exponent, "exponent"] : [dose?.strength ?? dose, "strength"];
  for (const [name, dose] of Object.entries(preset.factors ?? {})) put("factors", name, ...dosed(dose));
  for (const [name, value] of Object.entries(preset.guides ?? {})) put("guides", name, value, "strength");
  if (["interpolate", "multiply"].includes(preset.memory_mode)) setting.memoryMode = preset.memory_mode;
  for (const [name, value] of Object.entries(preset.memory ?? {})) put("memories", name, value, "weight");
  for (const shelf of SHELVES) {
    for (const [name, fader] of Object.entries(preset.faders?.[shelf] ?? {})) {
      put(shelf, name, fader.value, fader.unit, { mute: fader.mute === true, solo: fader.solo === true });
    }
  }
  if (preset.prior !== undefined && preset.prior !== null) {
    const prior = typeof preset.prior === "string" ? { name: preset.prior, mode: "response" } : preset.prior;
    if (known.priors.includes(prior.name)) setting.prior = { name: prior.name, mode: prior.mode ?? "response" };
    else notes.push(`the prior ${prior.name} is not on this server and was left out`);
  }
  for (const [name, standard] of Object.entries(SAMPLER)) {
    const value = OPENAI.includes(name) ? preset[name] : preset.sampler?.[name];
    if (typeof value === typeof standard) setting.sampler[name] = value;
  }
  setting.form = formIn(preset);
  for (const name of Object.keys(COMMON)) if (Number.isInteger(preset[name])) common[name] = preset[name];
  return { setting, common, notes };
}
