// A request as a program: Python with two libraries, and curl. Keys are never written out.

/** A value as a Python literal, broken over lines where it is long. */
export function python(value, indent = "") {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return quoted(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? ["[", "]"] : ["{", "}"];
  const inner = indent + "    ";
  const parts = isList
    ? value.map((v) => python(v, inner))
    : Object.entries(value).map(([k, v]) => `${quoted(k)}: ${python(v, inner)}`);
  const line = open + parts.join(", ") + close;
  if (indent.length + line.length <= 80 && !line.includes("\n")) return line;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}

// JSON's escapes are Python's; what separates lines and half characters are escaped besides.
const quoted = (text) =>
  JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

const OPENAI = ["model", "prompt", "messages", "max_tokens", "seed", "n", "temperature", "top_p", "stop"];
const isDefault = (name, value) => (name === "n" && value === 1) || (name === "seed" && value === 0);

/** With the official client of OpenAI; what is ours goes through extra_body. */
export function asOpenai(request, address) {
  const isChat = "messages" in request;
  const entries = Object.entries(request).filter(([name, value]) => !isDefault(name, value));
  const known = entries
    .filter(([name]) => OPENAI.includes(name))
    .map(([name, value]) => `    ${name}=${python(value, "    ")},`);
  const ours = Object.fromEntries(entries.filter(([name]) => !OPENAI.includes(name)));
  const extra = Object.keys(ours).length > 0 ? [`    extra_body=${python(ours, "    ")},`] : [];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    "client = OpenAI(",
    `    base_url=${quoted(`${address}/v1`)},`,
    '    api_key=os.environ.get("FACTORLM_API_KEY", "none"),',
    ")",
    `response = client.${isChat ? "chat.completions" : "completions"}.create(`,
    ...known,
    ...extra,
    ")",
    "for choice in response.choices:",
    `    print(choice.${isChat ? "message.content" : "text"})`,
    "",
  ].join("\n");
}

/** With factorlm itself, in one process and without a server; comments say what cannot be told from here. */
export function asFactorlm(request) {
  const lines = ["import factorlm as fl"];
  const sampler = request.sampler ?? {};
  const doses = Object.entries(request.factors ?? {});
  const strengths = Object.fromEntries(doses.filter(([, dose]) => typeof dose === "number"));
  const exponents = Object.fromEntries(
    doses.filter(([, dose]) => typeof dose !== "number").map(([name, d]) => [name, d.exponent]),
  );
  const memories = Object.entries(request.memory ?? {});
  const isPlanned = request.guides !== undefined;
  const common = [
    ["n", request.n ?? 1],
    ["max_tokens", request.max_tokens ?? 64],
    ["seed", request.seed ?? 0],
  ];
  const calls = common
    .filter(([name, value]) => !isDefault(name, value))
    .map(([name, value]) => `    ${name}=${value},`);
  if (request.messages) calls.push("    chat=True,");
  if (Object.keys(strengths).length > 0 && !isPlanned)
    calls.push(`    strengths=${python(strengths, "    ")},  # nats per token`);
  if (Object.keys(exponents).length > 0 && !isPlanned) calls.push(`    exponents=${python(exponents, "    ")},`);
  const stop = request.stop ? [`stop=(${request.stop.map((text) => `${python(text)},`).join(" ")})`] : [];
  const draws = { ...sampler, temperature: request.temperature, top_p: request.top_p };
  const options = ["temperature", "top_p", "top_k", "min_p", "typical_p"].filter((name) => draws[name] !== undefined);
  const sampling = [...options.map((name) => `${name}=${draws[name]}`), ...stop];
  if (sampling.length > 0) calls.push(`    sampling=fl.Sampling(${sampling.join(", ")}),`);
  if (sampler.kind && sampler.kind !== "local") calls.push(`    particles=${particles(sampler)},`);
  lines.push("");
  if (request.prior) {
    lines.push(
      `# the folder of the prior ${request.prior.name}; fl.load takes its components by their posterior ("bayes")`,
    );
    lines.push(`model = fl.load(${quoted(request.prior.name)})`);
  } else lines.push(`model = fl.load(${quoted(request.model)})`);
  for (const [name, value] of memories) {
    lines.push(`# the folder of the memory ${name}`);
    lines.push(
      request.memory_mode === "multiply"
        ? `model = model * memory_factor(model.lm, ${quoted(name)}) ** ${value}`
        : `model = fl.remember(model, ${quoted(name)}, most=${value})`,
    );
  }
  const language = grammarOf(request);
  if (language !== "") lines.push(`model = model * fl.grammar(${language})`);
  if (memories.length > 0 && request.memory_mode === "multiply") {
    lines.splice(1, 0, "from factorlm.inference.memories import memory_factor");
  }
  if (isPlanned) {
    if (doses.length > 0) lines.push(`model = model.steered(${python(strengths)}, ${python(exponents)})`);
    lines.push(`prior = fl.guided(model, ${python(request.guides)})`);
  }
  const words = request.messages ? (request.messages.at(-1)?.content ?? "") : request.prompt;
  if ((request.messages ?? []).length > 1) lines.push("# the last message alone; a server also reads those before it");
  lines.push(
    `for response in ${isPlanned ? "prior.sample" : "model.generate"}(`,
    `    ${quoted(words)},`,
    ...calls,
    "):",
    "    print(response.text)",
    "",
  );
  return lines.join("\n");
}

/** The formal language of a request as arguments of fl.grammar; empty where there is none. */
function grammarOf(request) {
  const schema = request.response_format?.json_schema?.schema;
  if (schema !== undefined) return `json_schema=${python(schema)}`;
  if (request.regex !== undefined) return `regex=${python(request.regex)}`;
  if (request.choice !== undefined) return `choices=${python(request.choice)}`;
  return request.grammar !== undefined ? `rules=${python(request.grammar)}` : "";
}

function particles(sampler) {
  const { kind: method, particles: number, resampling: scheme, ess: threshold, limit } = sampler;
  const settings = { method, number, scheme, threshold, limit };
  const given = Object.entries(settings).filter(([, value]) => value !== undefined);
  return `fl.Particles(${given.map(([name, value]) => `${name}=${python(value)}`).join(", ")})`;
}

/** For a shell. */
export function asCurl(request, address, needsKey = false) {
  const path = "messages" in request ? "chat/completions" : "completions";
  const body = JSON.stringify(request, null, 2).replaceAll("'", "'\\''");
  const key = needsKey ? ['  -H "Authorization: Bearer $FACTORLM_API_KEY" \\'] : [];
  return [
    `curl ${address}/v1/${path} \\`,
    "  -H 'Content-Type: application/json' \\",
    ...key,
    `  -d '${body}'`,
    "",
  ].join("\n");
}
