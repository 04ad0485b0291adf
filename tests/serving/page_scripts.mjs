// What the scripts of the page work out, without a browser: node --test, started by test_page_scripts.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Colours, strongest } from "./page/colours.js";
import { alternatives, total, totals, waterfall } from "./page/contributions.js";
import { asCurl, asOpenai, python } from "./page/exporting.js";
import { bodyOfFeedback } from "./page/feedback.js";
import { exponentOf, percent, plain, short, shown, signed, strengthOf } from "./page/numbers.js";
import { SCALES, allowed, moved as stepped, placeOf, valueAt } from "./page/scales.js";
import {
  audible,
  bodyOf,
  emptySetting,
  faderOf,
  linesOf,
  presetOf,
  requestOf,
  settingOf,
  troubleOf,
} from "./page/setting.js";
import { absorb, emptyResponse, endsWithEnd, events, objects, textOf } from "./page/stream.js";

const KNOWN = { factors: ["positive", "toxic", "clean"], guides: ["polite"], memories: ["news"], priors: ["genres"] };
const COMMON = { max_tokens: 32, seed: 7, n: 2 };

function moved(shelf, name, value, more = {}) {
  return (setting) => Object.assign(faderOf(setting, shelf, name), { value, ...more });
}

function settingWith(...moves) {
  const setting = emptySetting();
  for (const move of moves) move(setting);
  return setting;
}

test("mute silences, solo silences the others, and an untouched fader says nothing", () => {
  const setting = settingWith(
    moved("factors", "positive", 0.4),
    moved("factors", "toxic", -0.3),
    moved("guides", "polite", 0),
  );
  assert.deepEqual(bodyOf(setting), { factors: { positive: 0.4, toxic: -0.3 } });
  setting.factors.toxic.mute = true;
  assert.deepEqual(bodyOf(setting), { factors: { positive: 0.4 } });
  setting.factors.toxic.mute = false;
  setting.factors.toxic.solo = true;
  assert.deepEqual(bodyOf(setting), { factors: { toxic: -0.3 } });
  setting.factors.toxic.mute = true; // what is muted is heard neither alone nor with others
  assert.deepEqual(Object.keys(audible(setting).factors), ["positive"]);
});

test("solo reaches over the shelves", () => {
  const setting = settingWith(moved("factors", "positive", 0.4), moved("guides", "polite", 10, { solo: true }));
  assert.deepEqual(bodyOf(setting), { guides: { polite: 10 } });
});

test("a body has what differs from the defaults, in the places where the server reads it", () => {
  const setting = settingWith(moved("factors", "clean", 1, { unit: "exponent" }), moved("memories", "news", 0.3));
  Object.assign(setting, { memoryMode: "multiply", prior: { name: "genres", mode: "bayes" } });
  Object.assign(setting.sampler, { kind: "smc", particles: 8, temperature: 0.7, top_k: 40 });
  assert.deepEqual(bodyOf(setting), {
    factors: { clean: { exponent: 1 } },
    memory: { news: 0.3 },
    memory_mode: "multiply",
    prior: { name: "genres", mode: "bayes" },
    temperature: 0.7,
    sampler: { kind: "smc", top_k: 40, particles: 8 },
  });
  setting.sampler.kind = "local"; // particles mean nothing then
  assert.deepEqual(bodyOf(setting).sampler, { kind: "local", top_k: 40 });
});

test("a preset comes back as the setting that it was made of, silent faders included", () => {
  const setting = settingWith(
    moved("factors", "positive", 0.4),
    moved("factors", "toxic", -0.3, { mute: true }),
    moved("factors", "clean", 1, { unit: "exponent" }),
    moved("guides", "polite", 10, { solo: true }),
  );
  Object.assign(setting, { prior: { name: "genres", mode: "blend" } });
  Object.assign(setting.sampler, { temperature: 0, min_p: 0.05 });
  const back = settingOf(JSON.parse(JSON.stringify(presetOf(setting, COMMON, "tiny"))), KNOWN);
  assert.deepEqual(back, { setting, common: COMMON, notes: [] });
});

test("a form is sent as the server reads it, comes back from a preset, and says what is wrong with it", () => {
  const schema = { type: "object" };
  const forms = [
    [{ kind: "choice", content: "yes\n\nno\n" }, { choice: ["yes", "no"] }],
    [{ kind: "regex", content: "[a-z]+" }, { regex: "[a-z]+" }],
    [{ kind: "grammar", content: 'start: "a"' }, { grammar: 'start: "a"' }],
    [
      { kind: "json_schema", content: JSON.stringify(schema) },
      { response_format: { type: "json_schema", json_schema: { name: "form", schema } } },
    ],
    [{ kind: "regex", content: " " }, {}],
    [{ kind: "json_schema", content: "{" }, {}],
  ];
  for (const [form, body] of forms) {
    const setting = emptySetting();
    Object.assign(setting.form, form);
    assert.deepEqual(bodyOf(setting), body);
    setting.form.stop = ["\t", "end"];
    assert.deepEqual(bodyOf(setting), { stop: ["\t", "end"], ...body });
    const back = settingOf(presetOf(setting, COMMON, "tiny"), KNOWN).setting;
    assert.deepEqual(bodyOf(back), bodyOf(setting));
  }
  assert.equal(troubleOf({ kind: "json_schema", content: "{}" }), "");
  assert.match(troubleOf({ kind: "json_schema", content: "{" }), /Not JSON/);
  assert.match(troubleOf({ kind: "json_schema", content: "[]" }), /object/);
  assert.deepEqual(linesOf("a\n \n b"), ["a", " b"]);
});

test("a preset of another server says what is not here; what is none is refused", () => {
  const preset = {
    factorlm: "preset/1",
    factors: { gone: 1, positive: { strength: 0.2 } },
    guides: { "topic:music": 10 },
    prior: "lost",
  };
  const { setting, notes } = settingOf(preset, KNOWN);
  assert.deepEqual(Object.keys(setting.factors), ["positive"]);
  assert.equal(setting.factors.positive.value, 0.2);
  assert.equal(setting.guides["topic:music"].value, 10); // words need not be known
  assert.equal(notes.length, 2);
  for (const bad of [null, 3, {}, { factorlm: "preset/9" }]) assert.throws(() => settingOf(bad, KNOWN), /preset/);
  for (const value of ["1", null, {}, 1e999]) {
    assert.throws(() => settingOf({ factorlm: "preset/1", factors: { positive: value } }, KNOWN), /is a number/);
  }
});

test("numbers are shown with a true minus, and zero without a sign", () => {
  assert.equal(signed(0.4), "+0.40");
  assert.equal(signed(-0.004), "0.00");
  assert.equal(signed(-1.5, 1), "−1.5");
  assert.equal(plain(2, 0), "2");
  assert.equal(short(-4.3712), "−4.37");
  assert.equal(short(12345), "12300");
  assert.deepEqual([0.43, 0.043, 0.00043, 0].map(percent), ["43 %", "4.3 %", "0.043 %", "0 %"]);
  assert.equal(shown(" a\n"), "␣a↵");
  assert.equal(shown(""), "…");
});

test("strengths and exponents are each other's inverse", () => {
  const points = [
    [-1, -3],
    [-0.2, -1.5],
    [0, 0],
    [0.05, 0.5],
    [0.4, 2],
  ];
  for (const [strength, exponent] of points) assert.ok(Math.abs(exponentOf(points, strength) - exponent) < 1e-12);
  for (const s of [-2, -0.7, -0.1, 0.01, 0.3, 0.9])
    assert.ok(Math.abs(strengthOf(points, exponentOf(points, s)) - s) < 1e-12);
});

test("a fader says the number at its place, and stands at the place of its number", () => {
  for (const scale of Object.values(SCALES)) {
    assert.deepEqual([placeOf(scale, scale.low), placeOf(scale, scale.high)], [0, 1]);
    assert.deepEqual([placeOf(scale, -1e9), placeOf(scale, 1e9)], [0, 1]);
    for (let place = 0; place <= 1; place += 1 / 64) {
      const value = valueAt(scale, place);
      assert.equal(valueAt(scale, placeOf(scale, value)), value);
      assert.ok(Math.abs(value / scale.fine - Math.round(value / scale.fine)) < 1e-6);
    }
  }
  assert.equal(valueAt(SCALES.factors, 0.5), 0);
  assert.equal(placeOf(SCALES.factors, 0.25), 0.75); // a quarter of the strength has half of the way
});

test("keys move by steps and stop at the ends", () => {
  const scale = SCALES.factors;
  assert.deepEqual(
    ["ArrowRight", "ArrowDown", "PageUp", "Home", "End", "x"].map((key) => stepped(scale, 0.9, key)),
    [0.95, 0.85, 1, -1, 1, undefined],
  );
  let value = 0;
  for (let n = 0; n < 12; n += 1) value = stepped(scale, value, "ArrowRight");
  assert.equal(value, 0.6); // without the dust of binary fractions
  assert.deepEqual([allowed(scale, 9), allowed(SCALES.interpolate, -1), allowed(SCALES.multiply, -3)], [1.5, 0, -3]);
});

test("each name has a colour of its own until there are no more, and gives it back", () => {
  const colours = new Colours(["red", "green"]);
  assert.deepEqual(
    ["a", "b", "a", "c"].map((name) => colours.of(name)),
    ["red", "green", "red", "red"],
  );
  colours.keep(["b"]);
  assert.deepEqual(
    ["b", "d"].map((name) => colours.of(name)),
    ["green", "red"],
  );
});

test("the strongest push gives the colour, unless it cannot be seen", () => {
  assert.deepEqual(strongest({ a: 0.5, b: -1 }, 0.15, 2), { name: "b", share: 0.5, isAgainst: true });
  assert.equal(strongest({ a: 0.1 }, 0.15, 2), null);
  assert.equal(strongest({}, 0.15, 2), null);
  assert.equal(strongest({ a: null, b: 3 }, 0.15, 2).share, 1); // null stands for an infinite push
});

test("bars lead from the base to the composition without a gap", () => {
  const token = { log_prob: -2.3, base_log_prob: -4, normalizer: 0.5, factors: { a: 3, b: -0.8 } };
  const bars = waterfall(token);
  assert.deepEqual(
    bars.map((bar) => bar.kind),
    ["base", "push", "push", "normaliser", "composed"],
  );
  for (const [before, after] of [
    [0, 1],
    [1, 2],
    [2, 3],
  ])
    assert.ok(Math.abs(bars[before].to - bars[after].from) < 1e-12);
  assert.ok(Math.abs(bars[3].to - token.log_prob) < 1e-12);
  for (const { left, right } of bars) assert.ok(0 <= left && left <= right && right <= 1);
  assert.deepEqual(waterfall({ log_prob: -1, factors: {} }), []);
  assert.deepEqual(
    waterfall({ log_prob: -1, base_log_prob: -1, normalizer: 0, factors: {} }).map((bar) => bar.kind),
    ["base", "composed"],
  );
});

test("sums are over all tokens, and none where a token lacks the number", () => {
  const tokens = [
    { log_prob: -1, factors: { a: 1 } },
    { log_prob: -2, factors: { a: -3, b: null } },
  ];
  assert.deepEqual(totals(tokens), { a: -2, b: 0 });
  assert.equal(total(tokens, "log_prob"), -3);
  assert.equal(total(tokens, "base_log_prob"), null);
});

test("alternatives stand as mixed, without each factor, and by the base", () => {
  const token = {
    top: [["x", 0]],
    without: {
      "": [["y", Math.log(0.5)]],
      a: [
        ["z", -1],
        ["w", -2],
      ],
    },
  };
  const columns = alternatives(token, 1);
  assert.deepEqual(
    columns.map(({ title, name }) => [title, name]),
    [
      ["as mixed", null],
      ["without", "a"],
      ["base alone", null],
    ],
  );
  assert.deepEqual(columns[2].rows, [{ text: "y", prob: 0.5 }]);
  assert.equal(columns[1].rows.length, 1);
});

const STREAM =
  'data: {"id":"r","choices":[{"index":0,"text":"Né"}]}\r\n\r\n: still here\n\ndata: {"choices":[{"index":0,"text":"e","finish_reason":"length"}]}\n\ndata: [DONE]\n\ndata: {"never":1}\n\n';

test("events are the same wherever the stream is cut", () => {
  for (let cut = 0; cut <= STREAM.length; cut += 1) {
    const first = events(STREAM.slice(0, cut));
    const second = events(first.rest + STREAM.slice(cut));
    assert.deepEqual([...first.data, ...second.data], events(STREAM).data);
  }
});

test("a stream gives its objects up to [DONE], though bytes of a character come apart", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (let size = 1; size < 9; size += 1) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
        controller.close();
      },
    });
    const response = emptyResponse(1);
    for await (const chunk of objects(body)) absorb(response, chunk);
    assert.deepEqual([response.id, response.choices[0].text, response.choices[0].finishReason], ["r", "Née", "length"]);
  }
});

test("completions, chat and whole answers are taken in alike; an error breaks off", () => {
  const token = { token: 5, piece: "a", log_prob: -1, factors: {} };
  const shapes = [
    [{ choices: [{ index: 1, text: "a", factorlm: { tokens: [token] } }] }],
    [
      { choices: [{ index: 1, delta: { role: "assistant", content: "" } }] },
      { choices: [{ index: 1, delta: { content: "a" }, factorlm: { tokens: [token] } }] },
    ],
    [{ choices: [{ index: 1, text: "a", factorlm: { attribution: [token] } }] }],
  ];
  for (const chunks of shapes) {
    const response = emptyResponse(2);
    for (const chunk of structuredClone(chunks)) assert.deepEqual(absorb(response, chunk), [1]);
    assert.equal(response.choices[1].text, "a");
    const [{ text, ...rest }] = response.choices[1].tokens;
    assert.deepEqual(rest, token);
    assert.equal(text ?? rest.piece, "a");
    assert.equal(response.choices[0].text, "");
  }
  assert.throws(() => absorb(emptyResponse(1), { error: { message: "too late" } }), /too late/);
});

test("a character that is spread over tokens stands at the last of them", () => {
  const response = emptyResponse(1);
  for (const text of ["", "", "€"])
    absorb(response, { choices: [{ index: 0, text, factorlm: { tokens: [{ piece: "\ufffd" }] } }] });
  assert.deepEqual(response.choices[0].tokens.map(textOf), ["", "", "€"]);
  assert.equal(textOf({ piece: "a" }), "a");
});

test("the token that ends a text is known from what the text has", () => {
  const tokens = [{ piece: "a" }, { piece: "</s>" }];
  assert.ok(endsWithEnd({ text: "a", tokens, finishReason: "stop" }));
  assert.ok(endsWithEnd({ text: "a", tokens: [{ piece: "a" }, { piece: "" }], finishReason: "stop" })); // it may have no text
  assert.ok(!endsWithEnd({ text: "a</s>", tokens, finishReason: "stop" }));
  assert.ok(!endsWithEnd({ text: "a", tokens, finishReason: "length" }));
});

test("programs say what a request says, and hold no key", () => {
  const request = requestOf(settingWith(moved("factors", "positive", 0.4)), COMMON, {
    kind: "text",
    model: "m",
    prompt: 'It\'s "so"\n',
  });
  const program = asOpenai(request, "http://h:1");
  assert.match(program, /extra_body=\{"factors": \{"positive": 0.4\}\}/);
  assert.match(program, /prompt="It's \\"so\\"\\n"/);
  assert.match(asCurl(request, "http://h:1", true), /Bearer \$FACTORLM_API_KEY/);
  assert.equal(python({ a: [true, null, 1.5], "b c": "\u2028" }), '{"a": [True, None, 1.5], "b c": "\\u2028"}');
});

test("feedback tells the setting without the words, and an edit only where there is one", () => {
  const request = { model: "m", prompt: "p", factors: { positive: 0.4 }, n: 1 };
  const about = { response: { id: "r" }, index: 0, prompt: "p", request, choice: { text: "t" } };
  assert.deepEqual(bodyOfFeedback(about, { thumb: "up", edit: "t", comment: "" }), {
    response_id: "r",
    choice: 0,
    prompt: "p",
    text: "t",
    thumb: "up",
    model: "m",
    setting: { factors: { positive: 0.4 }, n: 1 },
  });
  assert.equal(bodyOfFeedback(about, { edit: "u" }).edit, "u");
});
