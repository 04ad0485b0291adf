// What each factor did to a token, as lengths and columns: base + pushes − normaliser = log probability.

/** Sum of each factor's pushes over tokens, in nats. */
export function totals(tokens) {
  const sums = {};
  for (const token of tokens) {
    for (const [name, nats] of Object.entries(token.factors ?? {})) sums[name] = (sums[name] ?? 0) + (nats ?? 0);
  }
  return sums;
}

/** Sum of one number over tokens; null where a token lacks it. */
export function total(tokens, field) {
  if (tokens.length === 0 || tokens.some((token) => typeof token[field] !== "number")) return null;
  return tokens.reduce((sum, token) => sum + token[field], 0);
}

/**
 * The way from the base to the composition, a bar for each step.
 *
 * Each has a `kind` (base, push, normaliser or composed), its `nats`, and where it begins and ends as shares of the
 * width that all of them need, zero included.
 */
export function waterfall(token) {
  if (typeof token.base_log_prob !== "number") return [];
  let at = token.base_log_prob;
  const bars = [{ kind: "base", name: "base", nats: at, from: 0, to: at }];
  for (const [name, nats] of Object.entries(token.factors ?? {}).filter(([, push]) => push !== null)) {
    bars.push({ kind: "push", name, nats, from: at, to: at + nats });
    at += nats;
  }
  if (typeof token.normalizer === "number" && bars.length > 1) {
    bars.push({
      kind: "normaliser",
      name: "normaliser",
      nats: -token.normalizer,
      from: at,
      to: at - token.normalizer,
    });
  }
  bars.push({ kind: "composed", name: "log prob", nats: token.log_prob, from: 0, to: token.log_prob });
  const ends = bars.flatMap((bar) => [bar.from, bar.to]).filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const share = (x) => (Number.isFinite(x) ? (x - low) / (high - low || 1) : 0);
  return bars.map((bar) => ({
    ...bar,
    left: Math.min(share(bar.from), share(bar.to)),
    right: Math.max(share(bar.from), share(bar.to)),
  }));
}

/** The most probable tokens as mixed, without each factor, and by the base alone: columns of a title and rows. */
export function alternatives(token, most = 5) {
  const without = Object.entries(token.without ?? {});
  const columns = [{ title: "as mixed", name: null, rows: token.top ?? [] }];
  for (const [name, rows] of without.filter(([name]) => name !== "")) columns.push({ title: "without", name, rows });
  for (const [, rows] of without.filter(([name]) => name === ""))
    columns.push({ title: "base alone", name: null, rows });
  return columns
    .filter((column) => column.rows.length > 0)
    .map((column) => ({
      ...column,
      rows: column.rows.slice(0, most).map(([text, logProb]) => ({ text, prob: Math.exp(logProb) })),
    }));
}
