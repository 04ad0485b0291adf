// Numbers as people read them, and the map between strengths and exponents.

/** With a sign, a true minus, and so many decimals. */
export function signed(x, decimals = 2) {
  const rounded = Number(x).toFixed(decimals);
  if (Number(rounded) === 0) return (0).toFixed(decimals);
  return x > 0 ? `+${rounded}` : `−${rounded.slice(1)}`;
}

/** Without a plus. */
export function plain(x, decimals = 2) {
  return signed(x, decimals).replace("+", "");
}

/** A probability in per cent, as precise as it is worth: 43 %, 4.3 %, 0.043 %. */
export function percent(p) {
  const value = 100 * p;
  if (value >= 9.95) return `${value.toFixed(0)} %`;
  if (value >= 0.995) return `${value.toFixed(1)} %`;
  if (value >= 0.001) return `${Number(value.toPrecision(2))} %`;
  return value > 0 ? "< 0.001 %" : "0 %";
}

/** Three digits, for exponents. */
export function short(x) {
  return String(Number(Number(x).toPrecision(3))).replace("-", "−");
}

const root = (s) => Math.sign(s) * Math.sqrt(Math.abs(s));

/** Piecewise linear; beyond the points the outermost piece goes on. */
function interpolate(points, x) {
  const found = points.findIndex(([known]) => x <= known);
  const index = Math.max(found < 0 ? points.length - 1 : found, 1);
  const [[x0, y0], [x1, y1]] = [points[index - 1], points[index]];
  return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
}

/** The exponent of a strength by the measured pairs of a card; the root of strength is linear between them. */
export function exponentOf(points, strength) {
  return interpolate(
    points.map(([s, e]) => [root(s), e]),
    root(strength),
  );
}

/** The strength of an exponent. */
export function strengthOf(points, exponent) {
  const r = interpolate(
    points.map(([s, e]) => [e, root(s)]),
    exponent,
  );
  return Math.sign(r) * r * r;
}

/** A token for a label: in quotes, with blanks and breaks that can be seen. */
export function shown(token) {
  if (token === "") return "…";
  return token.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");
}
