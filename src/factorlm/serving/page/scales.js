// Where a number stands on its fader. Those of factors are tapered like those of audio desks: the place is the root of
// the strength, so that it goes as the exponent does, and the soft strengths have most of the way.

export const SCALES = {
  factors: {
    low: -1,
    high: 1,
    far: 1.5,
    step: 0.05,
    fine: 0.01,
    power: 2,
    marks: [-1, -0.3, 0, 0.3, 1],
    unit: "strength in nats per token",
  },
  guides: {
    low: -30,
    high: 30,
    far: 100,
    step: 1,
    fine: 1,
    power: 1,
    marks: [-30, -10, 0, 10, 30],
    unit: "strength of the guide",
  },
  interpolate: {
    low: 0,
    high: 1,
    far: 1,
    step: 0.05,
    fine: 0.01,
    power: 1,
    marks: [0, 0.25, 0.5, 0.75, 1],
    unit: "largest weight",
  },
  multiply: { low: -2, high: 2, far: 10, step: 0.1, fine: 0.05, power: 1, marks: [-2, -1, 0, 1, 2], unit: "exponent" },
  switch: { low: 0, high: 1, far: 1, step: 1, fine: 1, power: 1, marks: [], unit: "on or off" },
};

const rounded = (x, to) => Number((Math.round(x / to) * to).toFixed(6));
const bent = (x, power) => Math.sign(x) * Math.abs(x) ** power;

/** The place of a number on its track, from 0 to 1; what lies beyond an end stands at it. */
export function placeOf({ low, high, power }, value) {
  const [from, to, at] = [low, high, Math.min(Math.max(value, low), high)].map((x) => bent(x, 1 / power));
  return (at - from) / (to - from);
}

/** The number at a place, as finely as a hand can mean it. */
export function valueAt({ low, high, power, fine }, place) {
  const [from, to] = [low, high].map((x) => bent(x, 1 / power));
  return rounded(bent(from + place * (to - from), power), fine);
}

/** The number that a key moves to; undefined for keys that move nothing. */
export function moved({ low, high, step }, value, key) {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[key];
  if (key === "Home") return low;
  if (key === "End") return high;
  return steps === undefined ? undefined : Math.min(Math.max(rounded(value + steps * step, step / 100), low), high);
}

/** The number that a fader can have: typed ones may go farther than its track. */
export function allowed({ low, far }, value) {
  return Math.min(Math.max(value, low < 0 ? -far : 0), far);
}
