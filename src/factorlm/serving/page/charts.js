// Pictures: where things stand is worked out as numbers first, then drawn as SVG.

import { svg } from "./dom.js";
import { plain, signed } from "./numbers.js";

/** Places of a dose and response in a box: each dose with its error bar, and the line through them. */
export function places(doses, of, errorOf, { width, height, low, high, reach }) {
  const x = (strength) => ((strength + reach) / (2 * reach)) * width;
  const y = (value) => height - ((Math.min(Math.max(value, low), high) - low) / (high - low)) * height;
  const points = doses.map((dose) => ({
    x: x(dose.strength),
    y: y(of(dose)),
    low: y(of(dose) - errorOf(dose)),
    high: y(of(dose) + errorOf(dose)),
    dose,
  }));
  const line = points.map((p, i) => `${i === 0 ? "M" : "L"}${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("");
  return { points, line, x, y };
}

/** Round numbers from low to high, about so many. */
export function ticks(low, high, about = 4) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + 1e-9; tick += step)
    found.push(Number(tick.toFixed(6)));
  return found;
}

const WIDTH = 440;
const TALL = 190;
const FLAT = 84;

/** The share of texts that have the attribute, and what such texts cost, against strength. */
export function dosePicture(response, colour, strength = 0) {
  const reach = Math.max(0.6, ...response.doses.map((dose) => Math.abs(dose.strength)));
  const ratios = response.doses.map((dose) => dose.perplexity_ratio);
  const high = Math.max(1.5, ...ratios) * 1.05;
  const low = Math.min(1, ...ratios) * 0.95;
  const error = (dose) => 1.96 * (dose.rate_error ?? 0);
  const rates = places(response.doses, (d) => d.rate, error, { width: WIDTH, height: TALL, low: 0, high: 1, reach });
  const costs = places(
    response.doses,
    (d) => d.perplexity_ratio,
    () => 0,
    { width: WIDTH, height: FLAT, low, high, reach },
  );
  const label = `Share of texts at strengths ${response.doses.map((d) => `${plain(d.strength, 1)}: ${Math.round(100 * d.rate)} %`).join(", ")}`;
  const second = TALL + 46;
  return svg(
    "svg",
    { class: "chart", viewBox: `-48 -26 ${WIDTH + 64} ${second + FLAT + 62}`, role: "img", "aria-label": label },
    svg("text", { class: "heading", x: -40, y: -12 }, "share of texts judged to have it"),
    axes(rates, TALL, [0, 0.25, 0.5, 0.75, 1], (v) => `${100 * v}%`, []),
    marker(rates, TALL, strength, true),
    curve(rates, colour, (d) => `strength ${signed(d.strength, 2)}: ${(100 * d.rate).toFixed(0)} % of texts`),
    svg(
      "g",
      { transform: `translate(0 ${second})` },
      svg("text", { class: "heading", x: -40, y: -12 }, "perplexity of such texts, times the base's"),
      axes(costs, FLAT, ticks(low, high, 3), (v) => `×${v}`, ticks(-reach, reach, 6)),
      marker(costs, FLAT, strength),
      curve(costs, colour, (d) => `strength ${signed(d.strength, 2)}: perplexity ×${d.perplexity_ratio.toFixed(2)}`),
      svg("text", { class: "tick", x: WIDTH / 2, y: FLAT + 34, "text-anchor": "middle" }, "strength, nats per token"),
    ),
  );
}

function axes({ x, y }, height, values, say, strengths) {
  return svg(
    "g",
    {},
    values.map((value) => [
      svg("path", { class: "grid", d: `M0 ${y(value)}H${WIDTH}` }),
      svg("text", { class: "tick", x: -8, y: y(value) + 4, "text-anchor": "end" }, say(value)),
    ]),
    svg("path", { class: "axis", d: `M${x(0)} 0V${height}` }),
    strengths.map((s) =>
      svg("text", { class: "tick", x: x(s), y: height + 16, "text-anchor": "middle" }, signed(s, 1)),
    ),
  );
}

function curve({ points, line }, colour, say) {
  return svg(
    "g",
    { stroke: colour, fill: colour },
    svg("path", { class: "curve", d: line, fill: "none" }),
    points.map((p) =>
      svg(
        "g",
        {},
        p.low !== p.high && svg("path", { class: "whisker", d: `M${p.x} ${p.low}V${p.high}` }),
        svg("circle", { class: "dot", cx: p.x, cy: p.y, r: 4.5 }, svg("title", {}, say(p.dose))),
      ),
    ),
  );
}

function marker({ x }, height, strength, named = false) {
  if (strength === 0) return null;
  const name = svg(
    "text",
    { class: "tick here-name", x: x(strength), y: -6, "text-anchor": "middle" },
    named ? "fader" : "",
  );
  return [svg("path", { class: "here", d: `M${x(strength)} 0V${height}` }), name];
}

const CELL = 54;

/** How like factors are: a square for each pair, blue where they push alike, orange where they push against. */
export function correlationPicture(names, matrix) {
  const margin = Math.max(...names.map((name) => name.length)) * 7.2 + 14;
  const side = names.length * CELL;
  const cells = names.flatMap((first, i) =>
    names.map((second, j) => {
      const r = matrix[i][j] ?? 0; // null where a factor does not vary
      const share = Math.min(Math.abs(r), 1);
      return svg(
        "g",
        { transform: `translate(${j * CELL} ${i * CELL})` },
        svg("rect", {
          class: r < 0 ? "below" : "above",
          width: CELL - 3,
          height: CELL - 3,
          rx: 5,
          "fill-opacity": (i === j ? 0.08 : 0.08 + 0.82 * share).toFixed(3),
        }),
        svg(
          "text",
          {
            class: i === j ? "cell same" : share > 0.55 ? "cell full" : "cell",
            x: CELL / 2 - 1.5,
            y: CELL / 2 + 3,
            "text-anchor": "middle",
          },
          i === j ? "1" : plain(r),
        ),
        svg("title", {}, `${first} and ${second}: ${plain(r)}`),
      );
    }),
  );
  return svg(
    "svg",
    {
      class: "chart matrix",
      viewBox: `${-margin} ${-margin * 0.72 - 8} ${side + margin + margin * 0.5} ${side + margin * 0.72 + 12}`,
      role: "img",
      "aria-label": `Correlations of ${names.join(", ")}`,
      style: { "max-width": `${side + 1.5 * margin}px` },
    },
    names.map((name, i) =>
      svg("text", { class: "tick", x: -8, y: i * CELL + CELL / 2 + 3, "text-anchor": "end" }, name),
    ),
    names.map((name, j) =>
      svg("text", { class: "tick", transform: `translate(${j * CELL + CELL / 2} -8) rotate(-45)` }, name),
    ),
    cells,
  );
}
